"""Make src/spikeproof/data/digits.csv.gz from scikit-learn's copy of the UCI digits.

    pip download --no-deps scikit-learn
    python scripts/make_digits.py scikit_learn-*.whl

Each row is 64 pixels in 0..16 and the label. The bytes are the same on every run.
"""

import gzip
import sys
import zipfile
from pathlib import Path

MEMBER = "sklearn/datasets/data/digits.csv.gz"
TARGET = Path(__file__).resolve().parents[1] / "src" / "spikeproof" / "data" / "digits.csv.gz"

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        text = gzip.decompress(wheel.read(MEMBER))
    TARGET.write_bytes(gzip.compress(text, compresslevel=9, mtime=0))
