"""A client of the package `websockets` against the /echo of examples/service.rs, through stops.

    python3 websockets_client.py ws://HOST:PORT/echo

Keeps one socket open, sends a message every 20 ms and reads the echoes, and connects again when the server has closed.
To a line on standard input it answers with "alive" at its next echo; when that is closed, it leaves. Prints at the end
"N sockets, M closed with 1001, K failures".
"""

import asyncio
import sys
import threading

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


class Client:
    def __init__(self, url):
        self.url = url
        self.asked = False
        self.leaves = asyncio.Event()
        self.sockets = self.closed = self.failures = 0

    def listen(self, loop):
        for _ in sys.stdin:
            self.asked = True
        loop.call_soon_threadsafe(self.leaves.set)

    async def speak(self, socket):
        number = 0
        while not self.leaves.is_set():
            await socket.send(str(number))
            number += 1
            await asyncio.sleep(0.02)
        await socket.close()

    async def read(self, socket):
        expected = 0
        async for message in socket:
            # In order, and none left out.
            if message != str(expected):
                raise ValueError(f"{message!r} instead of {expected}")
            expected += 1
            if self.asked:
                self.asked = False
                print("alive", flush=True)

    async def stay(self):
        async with connect(self.url, compression=None) as socket:
            self.sockets += 1
            speaking = asyncio.create_task(self.speak(socket))
            # Ends by itself when the close was clean (1000, 1001), by an exception when it was not.
            await self.read(socket)
            try:
                await speaking
            except ConnectionClosed:
                pass
            if socket.protocol.close_rcvd is None:
                raise ValueError("closed without a Close frame")
            if not self.leaves.is_set():
                if socket.close_code != 1001:
                    raise ValueError(f"closed with {socket.close_code}")
                self.closed += 1

    async def run(self):
        threading.Thread(target=self.listen, args=(asyncio.get_running_loop(),), daemon=True).start()
        while not self.leaves.is_set():
            try:
                await self.stay()
            except Exception as error:  # whatever it is, it is one too many
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                self.failures += 1
        print(f"{self.sockets} sockets, {self.closed} closed with 1001, {self.failures} failures")


asyncio.run(Client(sys.argv[1]).run())
