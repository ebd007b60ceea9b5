"""The jail, run as `python -S -s -P -W ignore /jail`: serves programs to run from the socket on fd 0."""

import sys

import zygote

# A program that says `import child` must not find these files: they are loaded, and vanish from where it would look.
folder = sys.path.pop(0)
sys.path_importer_cache.pop(folder, None)
for name in ("zygote", "child", "locks", "loops", "meter", "protocol", "watcher"):
    del sys.modules[name]
zygote.start(folder)
