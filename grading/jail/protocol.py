"""What the trainer and the jail agree on: the frames of their messages, and the times after which a program ends.

    trainer -> zygote   HEADER (size, kind), then `size` bytes of JSON
    zygote -> trainer   ANSWER (size, stop, seconds), then `size` bytes: what the child has said so far
    child -> zygote     lines of JSON, [tag, value]; the tags stand in child.py

Both sides import this file, so it imports nothing of either.
"""

import struct

HEADER = struct.Struct("<IB")
ANSWER = struct.Struct("<I5sd")

# Kinds of a message to the zygote.
CONFIG, SETUP, JOB, STOP = range(4)
# In the place of `stop`, in an answer about a child that still runs.
MORE = "more"

# In units of the time limit; README.md, section Time, says what they mean.
FAIR_FIRST = 0.2
FAIR_NEXT = 0.8
PATIENCE = 2.0
TOTAL = 3.0
OVERTIME = 6.0

# Seconds after which a program no longer counts as using a core: another one is started beside it.
SLOW_S = 0.1
