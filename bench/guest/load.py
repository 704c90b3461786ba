# SPDX-License-Identifier: MIT
"""Workloads of the guest whose memory bench/image.sh saves: load.py NAME SEED MEGABYTES.

Each fills about so many megabytes, prints "dwcp-load: ready", and then goes on changing a part of them: what a guest
does that has been up for a while. What is stored is made of real text that Debian installs (headers, Python's
library, copyright files), chosen by the seed.
"""
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import time

WORDS_FROM = ("/usr/include", "/usr/lib/python3.11", "/usr/share/doc", "/usr/share/perl5")


class Text:
    """Pieces of the files under WORDS_FROM."""

    def __init__(self, rng):
        self.rng = rng
        paths = []
        for top in WORDS_FROM:
            for folder, _, names in os.walk(top):
                paths += [os.path.join(folder, n) for n in names if n.endswith((".h", ".py", "copyright", ".pm"))]
        paths.sort()
        self.data = b""
        for path in rng.sample(paths, min(len(paths), 900)):
            with open(path, "rb") as f:
                self.data += f.read(60000)
        self.text = self.data.decode("latin-1")

    def piece_at(self, at, n):
        at %= len(self.text) - n
        return self.text[at:at + n]

    def piece(self, least, most):
        return self.piece_at(self.rng.getrandbits(32), self.rng.randint(least, most))


STATES = ("new", "active", "idle", "closed", "failed")
TAGS = [[a, b] for a in ("red", "db", "eu-west", "beta") for b in ("retry", "batch", "gold", "api")]


def record(rng, text, i):
    """A record as services keep them. One draw for all of it: an emulated CPU is slow."""
    r = rng.getrandbits(256)
    return {
        "id": i, "uuid": "%032x" % (r >> 128), "user": "user%05d" % ((r & 0xffffffff) % 20000),
        "created": 1700000000 + (r >> 32 & 0xffffff), "score": (r >> 56 & 0xfffff) / 10000,
        "state": STATES[(r >> 76) % 5], "tags": TAGS[r >> 80 & 15],
        "body": text.piece_at(r >> 84 & 0xfffffff, 300 + (r >> 112 & 0x3ff)),
    }


class Redis:
    def __init__(self, rng, text, megabytes):
        self.rng, self.text = rng, text
        subprocess.Popen(["redis-server", "--save", "", "--appendonly", "no", "--port", "6379"],
                         stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                self.sock = socket.create_connection(("127.0.0.1", 6379))
                break
            except OSError:
                time.sleep(0.1)
        self.answers = self.sock.makefile("rb")
        self.keys = megabytes * 800
        for i in range(0, self.keys, 200):
            self.put(range(i, i + 200))

    def put(self, keys):
        out = []
        for i in keys:
            key, value = b"object:%d" % i, json.dumps(record(self.rng, self.text, i)).encode()
            out.append(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value))
        self.sock.sendall(b"".join(out))
        for _ in out:
            if self.answers.readline() != b"+OK\r\n":
                raise RuntimeError("redis refuses a key")

    def step(self):
        self.put(self.rng.sample(range(self.keys), 40))
        for _ in range(60):
            n = b"%d" % self.rng.randrange(1000)
            self.sock.sendall(b"*2\r\n$4\r\nINCR\r\n$%d\r\ncounter:%s\r\n" % (8 + len(n), n))
            self.answers.readline()


class Sqlite:
    def __init__(self, rng, text, megabytes):
        self.rng, self.text = rng, text
        self.db = sqlite3.connect("/root/load.db")
        self.db.executescript("pragma journal_mode=wal; pragma synchronous=off; pragma cache_size=-40000;"
                              "create table event(id integer primary key, user text, at real, state text, body text);"
                              "create index by_user on event(user);")
        self.rows = megabytes * 900
        for i in range(0, self.rows, 1000):
            self.db.executemany("insert into event values(?,?,?,?,?)", (self.row(j) for j in range(i, i + 1000)))
            self.db.commit()

    def row(self, i):
        r = record(self.rng, self.text, i)
        return i, r["user"], r["score"], r["state"], r["body"]

    def step(self):
        for _ in range(40):
            i = self.rng.randrange(self.rows)
            self.db.execute("update event set state='done', at=? where id=?", (self.rng.random(), i))
        self.db.execute("select count(*), avg(at) from event where user=?",
                        ("user%05d" % self.rng.randrange(20000),)).fetchall()
        self.db.commit()


class Python:
    """A program's heap: objects, numbers, strings."""

    def __init__(self, rng, text, megabytes):
        self.rng, self.text = rng, text
        self.objects = [record(rng, text, i) for i in range(megabytes * 200)]
        self.series = [[rng.random() for _ in range(2000)] for _ in range(megabytes * 4)]
        self.index = {o["uuid"]: o for o in self.objects}

    def step(self):
        for _ in range(50):
            o = self.rng.choice(self.objects)
            o["score"] = self.rng.random()
            o["tags"] = list(reversed(o["tags"]))
        series = self.rng.choice(self.series)
        for i in range(0, 2000, 10):
            series[i] += self.rng.gauss(0, 0.01)
        json.dumps(self.rng.sample(self.objects, 20))


class Gcc:
    """Compiles, again and again, and reads what is installed."""

    def __init__(self, rng, text, megabytes):
        self.rng, self.text = rng, text
        os.makedirs("/root/build", exist_ok=True)
        read = 0
        for top in ("/usr/lib/gcc", "/usr/include", "/usr/lib/python3.11", "/usr/bin", "/usr/lib/x86_64-linux-gnu"):
            for folder, _, names in os.walk(top):
                for name in sorted(names):
                    path = os.path.join(folder, name)
                    if read < megabytes << 20 and os.path.isfile(path):
                        with open(path, "rb") as f:
                            read += len(f.read())
        for i in range(3):
            self.compile(i)
        self.n = 3

    def compile(self, i):
        path = "/root/build/unit%d" % (i % 200)
        lines = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>"]
        for j in range(30):
            n = self.rng.randrange(10 ** 6)
            lines.append("int f%d(int a, const char *s) { for (int i = 0; i < a; i++) a += s[i] * %d; "
                         "printf(\"%%d %d\\n\", a); return a ^ %d; }" % (j, n, n, n + j))
        with open(path + ".c", "w") as f:
            f.write("\n".join(lines) + "\n/* " + self.text.piece(500, 4000).replace("*/", "") + " */\n")
        subprocess.run(["gcc", "-O2", "-w", "-c", path + ".c", "-o", path + ".o"], check=True)

    def step(self):
        self.compile(self.n)
        self.n += 1


LOADS = {
    "redis": ((Redis, 0.6), (Gcc, 0.3)),
    "sqlite": ((Sqlite, 0.6), (Python, 0.2)),
    "gcc": ((Gcc, 0.7), (Python, 0.2)),
    "python": ((Python, 0.6), (Sqlite, 0.2)),
    "mixed": ((Redis, 0.3), (Sqlite, 0.25), (Python, 0.2), (Gcc, 0.25)),
}


def console(line):
    with open("/dev/console", "w") as f:
        f.write(line + "\n")


def main():
    name, seed, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random("%s %d" % (name, seed))
    text = Text(rng)
    parts = []
    for make, share in LOADS[name]:
        console("dwcp-load: %s" % make.__name__)
        parts.append(make(rng, text, int(megabytes * share)))
    console("dwcp-load: ready")
    # Each at its own pace: some tens of steps a second, of which an idle moment is a part.
    while True:
        for part in parts:
            part.step()
        time.sleep(0.05)


main()
