"""The page of the web app in tests: a photo goes in by drop or paste."""

from skimage import data

from tests.helpers.uploads import encoded

CAT = encoded(data.chelsea())
SEEN = "() => Boolean(document.querySelector('main').viewer?.ctx.scene)"  # with its first map
READY = "() => { const { scene, host } = document.querySelector('main').viewer?.ctx ?? {}; return scene && host.mask; }"
START = "() => Boolean(document.querySelector('.vw-samples button'))"
TITLE = "(name) => document.querySelector('main h1')?.textContent === name"
BYTES = "const file = new File([Uint8Array.from(bytes)], name, { type: kind }), moved = new DataTransfer();"
DROP = f"""([bytes, name, kind]) => {{
    {BYTES} moved.items.add(file);
    const on = document.querySelector('.vw-drop') ?? document.body;
    const what = {{ bubbles: true, cancelable: true, dataTransfer: moved }};
    on.dispatchEvent(new DragEvent('dragover', what));
    const marked = document.querySelector('.vw').classList.contains('vw-over');
    return [marked, on.dispatchEvent(new DragEvent('drop', what))];
}}"""
PASTE = f"""([bytes, name, kind]) => {{
    {BYTES} moved.items.add(file);
    document.body.dispatchEvent(new ClipboardEvent('paste', {{ bubbles: true, clipboardData: moved }}));
}}"""


def moved(raw, name="cat.png", kind="image/png"):
    return [list(raw), name, kind]
