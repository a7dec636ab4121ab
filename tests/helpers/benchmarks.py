"""Methods of a benchmark by their text."""

from vitscope.bench.runner import method_specs


def pair(text):
    name, _, value = text.partition("=")
    return name, int(value) if value.lstrip("-").isdigit() else float(value) if "." in value else value


def rows_of(scope, *texts):
    return method_specs(scope, texts, pair)
