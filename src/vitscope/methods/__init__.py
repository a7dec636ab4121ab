"""From attention to relevance: one file per idea. A method is a seed row and what happens to it at each layer."""
