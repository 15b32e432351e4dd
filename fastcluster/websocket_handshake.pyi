# websocket_handshake.pyx has nothing for Python.
