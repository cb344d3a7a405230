"""The lab: real kernels in QEMU, to debug and to be the oracle of the tests.

Run the parts as `python3 -m lab.PART` with `scripts/` on PYTHONPATH. Only the
standard library is used, so that a fresh machine's python3 is enough.
"""
