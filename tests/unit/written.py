"""Files of data sets written byte by byte from their formats' definitions, without a reader in sight."""

import struct

import h5py
import numpy as np


def forty_bits(events):
    """N-MNIST: column 8 bits, row 8, polarity 1, microseconds 23; events are time, polarity, row, column."""
    return b"".join((x << 32 | y << 24 | p << 23 | t).to_bytes(5, "big") for t, p, y, x in events)


def aedat2(events, header=b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n"):
    """AEDAT 2: address and time of 32 bits each; bit 0 is OFF, rows from below, columns from the right."""
    return header + b"".join(
        struct.pack(">II", (127 - x) << 8 | (127 - y) << 1 | (1 - p), t) for t, p, y, x in events
    )


HEADER3 = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def packet(events, turns=0):
    """AEDAT 3.1: one packet of polarity events."""
    n = len(events)
    return struct.pack("<HHIIIIII", 1, 1, 8, 4, turns, n, n, n) + b"".join(
        struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t) for t, p, y, x in events
    )


def aedat3(events):
    """AEDAT 3.1: events of any time, a packet for each turn of its clock and each 50 events."""
    content, start = HEADER3, 0
    while start < len(events):
        turns = events[start][0] >> 31
        end = start
        while end < len(events) and end - start < 50 and events[end][0] >> 31 == turns:
            end += 1
        content += packet([(t & 0x7FFFFFFF, p, y, x) for t, p, y, x in events[start:end]], turns)
        start = end
    return content


def wav(samples, rate=8000, claimed=None):
    """RIFF, a form chunk, a data chunk: one channel of 16 bits."""
    data = struct.pack(f"<{len(samples)}h", *samples)
    head = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    size = len(data) if claimed is None else claimed
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def idx(dimensions, payload):
    """0, 0, type, rank, dimensions with the big end first, data."""
    head = b"\x00\x00\x08" + bytes([len(dimensions)]) + struct.pack(f">{len(dimensions)}I", *dimensions)
    return head + bytes(payload)


def spikes(path, times, units, labels):
    """HDF5 as SHD is handed out: lists of times in seconds and of units, and labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, rows, kind in (("spikes/times", times, np.float32), ("spikes/units", units, np.uint16)):
            array = np.empty(len(rows), object)
            for i, row in enumerate(rows):
                array[i] = np.array(row, kind)
            file.create_dataset(name, data=array, dtype=h5py.vlen_dtype(kind))
        file.create_dataset("labels", data=np.array(labels, np.uint16))
    return path


def put(path, content):
    """A file, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
