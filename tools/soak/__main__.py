"""`python tools/soak`: the repository's root and this folder are put where Python looks for modules."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "train"), str(ROOT / "export"), str(ROOT / "tools")]

if __name__ == "__main__":
    from soak.run import main

    main()
