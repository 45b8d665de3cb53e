"""Drives tuspy as a program would: `client.py MODE ENDPOINT FILE NAME AUTHORIZATION`.

Prints one line of JSON. PYTHONPATH says where the package is.
"""

import json
import sys

from tusclient import client


def main():
    mode, endpoint, file, name, authorization = sys.argv[1:]
    tus = client.TusClient(endpoint, headers={"Authorization": authorization})
    piece = {"chunks": 1 << 20, "checksum": 1 << 20, "whole": sys.maxsize}[mode]
    uploader = tus.uploader(
        file,
        chunk_size=piece,
        metadata={"filename": name, "filetype": "application/x-larder-test"},
        retries=60,
        retry_delay=0.3,
        upload_checksum=mode == "checksum",
    )
    uploader.upload()
    print(json.dumps({"url": uploader.url, "offset": uploader.offset}))


if __name__ == "__main__":
    main()
