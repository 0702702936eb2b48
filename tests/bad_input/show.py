import importlib
import sys
import tempfile
import time
from pathlib import Path


def main():
    mod = importlib.import_module(sys.argv[1])
    for name in sys.argv[2:]:
        for case in getattr(mod, name):
            import os
            if os.environ.get('ONLY','') not in case.wrong: continue
            t = time.time()
            with tempfile.TemporaryDirectory() as d:
                try:
                    seen = case.act(Path(d) / "w")
                except AssertionError as e:
                    print("##", case.wrong, "ASSERT", str(e)[:3000])
                    continue
                ok = seen.end == case.end and seen.charged == case.charged
                print(
                    "##", "" if ok else "!!!!", case.wrong, "|", seen.end, "|", seen.charged, f"{time.time() - t:.1f}s"
                )
                for l in seen.lines:
                    print("    ", l.replace(d + "/w", "…"))
                if not ok:
                    print("      expected", case.end, case.charged)


if __name__ == "__main__":
    main()
