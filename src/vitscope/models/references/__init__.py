"""Turn a reference such as `timm:NAME` or `folder/` into a model, or say what was meant."""
