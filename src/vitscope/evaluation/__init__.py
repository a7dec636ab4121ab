"""How far a map can be believed: measures that run the model, and predictions without some patches."""
