"""An application that kills its worker while it is imported, as bad native code does."""

import os
import signal

os.kill(os.getpid(), signal.SIGSEGV)
