"""A photo that is slow to decode keeps nobody else waiting, and does not outlive the server."""

import signal
import threading
import time
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.helpers.odd_pictures import scans
from tests.helpers.uploads import GOOD, uploaded
from tests.helpers.webserver import TOKEN, entered, process, serving

SLOW = b"P3\n#" + b"x" * 10_000_000 + b"\n2 2 255 " + b"1 " * 12  # several seconds of one core


@pytest.mark.slow
def test_honest_uploads_are_answered_while_slow_ones_are_given_up(tiny_scope):
    with serving(tiny_scope, decode_seconds=2.0) as (address, _):
        answers = []

        def attack():
            with entered(address) as client:
                answers.append(client.post("/api/photos", content=SLOW, params={"name": "slow.ppm"}))

        attackers = [threading.Thread(target=attack) for _ in range(4)]
        for one in attackers:
            one.start()
        with entered(address) as client:
            for _ in range(4):
                began = time.monotonic()
                uploaded(client, GOOD[1])
                assert time.monotonic() - began < 5
            refused = client.post("/api/photos", content=scans(4000), params={"name": "scans.jpg"})
            assert (refused.status_code, refused.json()["code"]) == (422, "images.costly")
        for one in attackers:
            one.join()
        assert {(one.status_code, one.json()["code"]) for one in answers} == {(422, "images.too-slow")}


@pytest.mark.slow
def test_a_signal_ends_the_server_and_its_decoders(tiny_folder):
    with process("-m", tiny_folder, "--port", 0, "--token", TOKEN) as (server, line):
        address = line.split()[-1].split("?")[0].rstrip("/")

        def attack():
            headers = {"authorization": f"Bearer {TOKEN}"}
            with suppress(httpx.HTTPError):
                httpx.post(f"{address}/api/photos", content=SLOW, headers=headers, timeout=60, trust_env=False)

        attacker = threading.Thread(target=attack)
        attacker.start()
        parent, until = psutil.Process(server.pid), time.monotonic() + 20
        while not (decoders := parent.children(recursive=True)) and time.monotonic() < until:
            time.sleep(0.05)
        assert decoders
        time.sleep(1)
        server.send_signal(signal.SIGTERM)
        began = time.monotonic()
        server.wait(20)
        assert time.monotonic() - began < 6
        attacker.join()
        _, alive = psutil.wait_procs(decoders, timeout=15)
        assert not alive
