#!/usr/bin/env python3
"""Runs `tenon ARGUMENTS...` where the backend has a card; else exits with 77, which ctest reports as skipped.

  on_a_card.py TENON BACKEND ARGUMENTS...
"""
import json
import subprocess
import sys


def main():
    tenon, backend, *arguments = sys.argv[1:]
    listed = subprocess.run([tenon, "devices", "--json"], capture_output=True, text=True)
    if listed.returncode != 0:
        sys.exit(f"tenon devices failed: {listed.stderr.strip()}")
    plugin = next((p for p in json.loads(listed.stdout) if p["plugin"] == backend), None)
    if plugin is None or not plugin["devices"]:
        print(f"skipped: {plugin['reason'] if plugin else f'the device plugin {backend} is not built'}")
        return 77
    return subprocess.run([tenon, *arguments]).returncode


if __name__ == "__main__":
    sys.exit(main())
