# websocket_frames.pyx has nothing for Python.
