"""One model at work: options, forwards with their attention, and explanations; everything else takes an `Engine`."""
