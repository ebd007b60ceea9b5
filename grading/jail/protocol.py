"""What the trainer and the jail agree on: the frames of their messages, and how a child's end is told.

    trainer -> zygote   HEADER (size, kind), in a JOB its LIMITS, then `size` bytes of JSON
    zygote -> trainer   ANSWER (size, stop, cpu, sleep), then `size` bytes: what the child has said
    child -> zygote     lines of JSON, [tag, value]; the tags stand in child.py

Both sides import this file, so it imports nothing of either.
"""

import struct

HEADER = struct.Struct("<IB")
# Own seconds (CPU and sleep): look, first, each, total; README.md, section Time.
LIMITS = struct.Struct("<dddd")
ANSWER = struct.Struct("<I7sdd")

# Kinds of a message to the zygote.
CONFIG, SETUP, JOB, STOP = range(4)

# Why a child was stopped, in an answer; "" if it ended by itself.
TIME = "time"  # a limit of its own time
FLOOD = "flood"  # it said too much
LOOK = "look"  # it has results after the look's time
TOLD = "told"  # the trainer sent STOP
STARVED = "starved"  # WALL_S passed, and it had not had its own time
KILLED = "killed"  # by the kernel, as memory ran out
# In the place of a stop: the child still runs, this is the time that it has had.
BEAT = "beat"

# Seconds between beats.
BEAT_S = 0.25
# Seconds of wall clock after which a child that is still within its limits is given up: the host starves it.
WALL_S = 600.0
