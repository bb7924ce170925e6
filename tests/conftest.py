"One processor for each of pytest's workers (`pytest -n auto`): torch would give each of them all."
import os

if 'PYTEST_XDIST_WORKER' in os.environ: os.environ.setdefault('OMP_NUM_THREADS', '1')
