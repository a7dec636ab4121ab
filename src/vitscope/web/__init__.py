"""The local web app behind `vitscope serve`."""
