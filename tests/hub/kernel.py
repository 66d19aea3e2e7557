"""Runs code on a user's server as a notebook does: a kernel, over its websocket, through the proxy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import aiohttp

if TYPE_CHECKING:
    from hub import Hub


async def _run(token: str, base: str, code: str, url: str) -> str:
    headers = {"Authorization": f"token {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{url}{base}api/kernels", json={}) as answer:
            assert answer.status == 201, await answer.text()
            kernel = (await answer.json())["id"]
        message = uuid4().hex
        request = {
            "header": {"msg_id": message, "msg_type": "execute_request", "version": "5.3"}
            | {"username": "", "session": uuid4().hex, "date": ""},
            "content": {"code": code, "silent": False, "store_history": False, "stop_on_error": True}
            | {"user_expressions": {}, "allow_stdin": False},
            "parent_header": {},
            "metadata": {},
            "channel": "shell",
            "buffers": [],
        }
        output = ""
        async with session.ws_connect(f"{url}{base}api/kernels/{kernel}/channels") as socket:
            await socket.send_json(request)
            while True:
                event = await socket.receive_json(timeout=60)
                if event["parent_header"].get("msg_id") != message:
                    continue
                if event["msg_type"] == "stream":
                    output += event["content"]["text"]
                elif event["msg_type"] == "error":
                    raise AssertionError("\n".join(event["content"]["traceback"]))
                elif event["msg_type"] == "status" and event["content"]["execution_state"] == "idle":
                    break
        await session.delete(f"{url}{base}api/kernels/{kernel}")
        return output


def run_code(hub: Hub, base: str, code: str, port: int = 8000) -> str:
    """What `code` printed; `base` is the server's path, such as /user/ana/."""
    return run_as(hub.token, base, code, port)


def run_as(token: str, base: str, code: str, port: int) -> str:
    """The same for whoever has this token, through the proxy at this port."""
    return asyncio.run(asyncio.wait_for(_run(token, base, code, f"http://127.0.0.1:{port}"), 120))
