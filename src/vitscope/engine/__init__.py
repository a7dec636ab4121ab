"""One model at work: options, the stages of an explanation, and everything else that one image is asked."""
