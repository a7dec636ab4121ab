"""Ask a gradio app from eight clients at once: python gradio_asked.py MODEL OUT.json, with gradio on the path."""

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import numpy as np
from gradio_client import Client

import vitscope

METHODS = ("rollout", "gradcam", "relevance", "attention", "logit-lens", "attnlrp")
CLIENTS, EACH = 8, 3
scope = vitscope.load(sys.argv[1])
photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def look(method: str) -> str:
    """Return the digest of a map."""
    return hashlib.sha256(scope.explain(photo, method=method).map.tobytes()).hexdigest()


with gr.Blocks(analytics_enabled=False) as demo:
    given, shown = gr.Textbox(), gr.Textbox()
    gr.Button().click(look, given, shown, concurrency_limit=None, api_name="look")

alone = {method: look(method) for method in METHODS}
address = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False)[1]


def ask(number: int) -> list[tuple[str, str]]:
    """Ask as one client for every method, each time beginning with another one."""
    client = Client(address, verbose=False)
    order = [METHODS[(number + n) % len(METHODS)] for n in range(EACH * len(METHODS))]
    return [(method, client.predict(method, api_name="/look")) for method in order]


with ThreadPoolExecutor(CLIENTS) as pool:
    answers = [one for many in pool.map(ask, range(CLIENTS)) for one in many]
demo.close()
told = {"asked": len(answers), "wrong": [method for method, digest in answers if digest != alone[method]]}
told["after"] = [method for method in METHODS if look(method) != alone[method]]
Path(sys.argv[2]).write_text(json.dumps(told), "utf-8")
os._exit(0)  # the server's own threads are not waited for
