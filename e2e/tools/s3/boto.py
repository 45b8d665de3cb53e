"""What programs do with boto3, one function each; run by the test `s3clients`.

boto.py ENDPOINT KEY SECRET check [NAME...]    runs the checks, prints one JSON object
boto.py ENDPOINT KEY SECRET write LEDGER SEED  writes objects until the server goes, noting each
                                               that was acknowledged
boto.py ENDPOINT KEY SECRET verify LEDGER [LATER]
                                               reads back what was noted, ends open uploads
boto.py ENDPOINT KEY SECRET urls BUCKET KEY... presigned URLs, to put these keys
boto.py ENDPOINT KEY SECRET strangers KEY2 SECRET2
                                               what another user and nobody get of a shut bucket
"""

import concurrent.futures
import hashlib
import io
import json
import os
import random
import sys
import threading
import traceback
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import ClientError

MIB = 1 << 20
ENDPOINT, KEY, SECRET = sys.argv[1:4]
ROUNDS = int(os.environ.get("LARDER_E2E_ROUNDS", "5"))


def client(key=KEY, secret=SECRET, **options):
    config = dict(
        signature_version="s3v4",
        retries={"max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": "path"},
        max_pool_connections=64,
        connect_timeout=10,
        read_timeout=60,
    )
    config.update(options)
    return boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(**config),
    )


s3 = client()


def bucket(name, **more):
    s3.create_bucket(Bucket=name, **more)
    return name


def code(call, **arguments):
    """The status and the code that a call is refused with."""
    try:
        call(**arguments)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status, error.response["Error"]["Code"]
    return None


def read(name, key, **more):
    return s3.get_object(Bucket=name, Key=key, **more)["Body"].read()


def at_once(count, work):
    """Runs `work(number)` in so many threads that begin together."""
    barrier = threading.Barrier(count)

    def one(number):
        barrier.wait()
        return work(number)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def check_objects_are_what_was_put():
    name = bucket("objects")
    for size in [0, 1, 4096, 128 << 10, (128 << 10) + 1, 3 * MIB]:
        body = random.randbytes(size)
        put = s3.put_object(
            Bucket=name, Key="a/b c", Body=body, ContentType="text/x", CacheControl="no-store",
            Metadata={"who": "me"},
        )
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        assert put["ETag"] == etag
        got = s3.get_object(Bucket=name, Key="a/b c")
        assert got["Body"].read() == body and got["ETag"] == etag
        assert (got["ContentType"], got["CacheControl"]) == ("text/x", "no-store")
        head = s3.head_object(Bucket=name, Key="a/b c")
        assert head["ContentLength"] == size and head["ETag"] == etag
    assert head["Metadata"]["who"] == "me"
    assert read(name, "a/b c", Range="bytes=10-19") == body[10:20]
    assert read(name, "a/b c", Range="bytes=-5") == body[-5:]
    assert code(s3.get_object, Bucket=name, Key="a/b c", Range=f"bytes={size}-") == (
        416, "InvalidRange")
    assert code(s3.get_object, Bucket=name, Key="missing") == (404, "NoSuchKey")
    assert code(s3.get_object, Bucket="missing", Key="k")[1] in ("NoSuchBucket", "AccessDenied")
    assert code(s3.delete_bucket, Bucket=name) == (409, "BucketNotEmpty")
    s3.delete_object(Bucket=name, Key="a/b c")
    s3.delete_object(Bucket=name, Key="a/b c")
    s3.delete_bucket(Bucket=name)


def check_checksums_are_compared_before_anything_is_stored():
    name = bucket("checksums")
    for algorithm in ["CRC32", "SHA1", "SHA256"]:
        s3.put_object(Bucket=name, Key=algorithm, Body=b"content", ChecksumAlgorithm=algorithm)
        head = s3.head_object(Bucket=name, Key=algorithm, ChecksumMode="ENABLED")
        assert head[f"Checksum{algorithm}"]
    wrong = "AAAAAA=="
    assert code(s3.put_object, Bucket=name, Key="bad", Body=b"x", ChecksumCRC32=wrong)[0] == 400
    assert code(s3.put_object, Bucket=name, Key="bad", Body=b"x",
                ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==") == (400, "BadDigest")
    assert code(s3.get_object, Bucket=name, Key="bad") == (404, "NoSuchKey")


def check_listings_are_exact():
    name = bucket("listings")
    keys = sorted({f"{random.choice('ab/-.')}{random.choice('xy/-')}{n % 37:02}" for n in range(150)})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=name, Key=key, Body=key.encode()), keys))
    for size in [7, 1000]:
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=name, PaginationConfig={"PageSize": size})
        assert [one["Key"] for page in pages for one in page.get("Contents", [])] == keys
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=name, Delimiter="/", PaginationConfig={"PageSize": size})
        found = []
        for page in pages:
            found += [one["Key"] for one in page.get("Contents", [])]
            found += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
        wanted = {key[: key.index("/") + 1] if "/" in key else key for key in keys}
        assert sorted(found) == sorted(wanted)
    deleted = s3.delete_objects(
        Bucket=name, Delete={"Objects": [{"Key": key} for key in keys]})["Deleted"]
    assert len(deleted) == len(keys)
    assert "Contents" not in s3.list_objects_v2(Bucket=name)


def check_multipart_uploads():
    name = bucket("multipart")
    body = random.randbytes(17 * MIB)
    transfer = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_fileobj(io.BytesIO(body), name, "big", Config=transfer)
    head = s3.head_object(Bucket=name, Key="big")
    parts = [body[at : at + 5 * MIB] for at in range(0, len(body), 5 * MIB)]
    md5s = b"".join(hashlib.md5(part).digest() for part in parts)
    assert head["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-4"'
    assert read(name, "big") == body
    assert read(name, "big", PartNumber=2) == parts[1]
    copied = s3.copy_object(Bucket=name, Key="copy", CopySource={"Bucket": name, "Key": "big"})
    assert copied["CopyObjectResult"]["ETag"] == head["ETag"] and read(name, "copy") == body
    upload = s3.create_multipart_upload(Bucket=name, Key="parts")["UploadId"]
    etags = []
    for number in [1, 2]:
        part = s3.upload_part_copy(
            Bucket=name, Key="parts", UploadId=upload, PartNumber=number,
            CopySource={"Bucket": name, "Key": "big"},
            CopySourceRange=f"bytes=0-{6 * MIB - 1}")
        etags.append({"PartNumber": number, "ETag": part["CopyPartResult"]["ETag"]})
    listed = s3.list_parts(Bucket=name, Key="parts", UploadId=upload)["Parts"]
    assert [part["Size"] for part in listed] == [6 * MIB, 6 * MIB]
    end = dict(Bucket=name, Key="parts", UploadId=upload, MultipartUpload={"Parts": etags})
    first = s3.complete_multipart_upload(**end)["ETag"]
    assert s3.complete_multipart_upload(**end)["ETag"] == first
    assert read(name, "parts") == body[: 6 * MIB] * 2
    upload = s3.create_multipart_upload(Bucket=name, Key="gone")["UploadId"]
    assert len(s3.list_multipart_uploads(Bucket=name)["Uploads"]) == 1
    below = s3.create_multipart_upload(Bucket=name, Key="a/b")["UploadId"]
    page = s3.list_multipart_uploads(Bucket=name, Delimiter="/", MaxUploads=1)
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["a/"] and "Uploads" not in page
    page = s3.list_multipart_uploads(Bucket=name, Delimiter="/", KeyMarker=page["NextKeyMarker"])
    assert [one["Key"] for one in page["Uploads"]] == ["gone"] and not page["IsTruncated"]
    s3.abort_multipart_upload(Bucket=name, Key="a/b", UploadId=below)
    s3.abort_multipart_upload(Bucket=name, Key="gone", UploadId=upload)
    assert code(s3.list_parts, Bucket=name, Key="gone", UploadId=upload) == (404, "NoSuchUpload")


def one_winner(outcomes):
    won = [outcome for outcome in outcomes if outcome is None]
    lost = {outcome for outcome in outcomes if outcome is not None}
    assert len(won) == 1 and lost <= {(412, "PreconditionFailed"),
                                      (409, "ConditionalRequestConflict")}, outcomes


def check_of_32_conditional_puts_one_wins():
    name = bucket("winners")
    for number in range(ROUNDS):
        key = f"free-{number}"
        one_winner(at_once(32, lambda n: code(
            s3.put_object, Bucket=name, Key=key, Body=b"%d" % n, IfNoneMatch="*")))
        etag = s3.head_object(Bucket=name, Key=key)["ETag"]
        one_winner(at_once(32, lambda n: code(
            s3.put_object, Bucket=name, Key=key, Body=b"again %d" % n, IfMatch=etag)))


def check_of_32_conditional_completions_one_wins():
    name = bucket("completions")
    for number in range(ROUNDS):
        key = f"free-{number}"

        def begin(n):
            upload = s3.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
            part = s3.upload_part(
                Bucket=name, Key=key, UploadId=upload, PartNumber=1,
                # The same content would have the same ETag, and the condition hold again.
                Body=f"{n} {condition}")
            return upload, {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}

        condition = {"IfNoneMatch": "*"}
        for _ in range(2):
            begun = at_once(32, begin)
            one_winner(at_once(32, lambda n: code(
                s3.complete_multipart_upload, Bucket=name, Key=key, UploadId=begun[n][0],
                MultipartUpload=begun[n][1], **condition)))
            # Who has lost keeps the parts; the winner's upload is done.
            ends = at_once(32, lambda n: code(
                s3.abort_multipart_upload, Bucket=name, Key=key, UploadId=begun[n][0]))
            assert [end for end in ends if end] == [(404, "NoSuchUpload")], ends
            condition = {"IfMatch": s3.head_object(Bucket=name, Key=key)["ETag"]}


def check_versions():
    name = bucket("versions")
    s3.put_object(Bucket=name, Key="k", Body=b"before")
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    ids = [s3.put_object(Bucket=name, Key="k", Body=b"%d" % n)["VersionId"] for n in range(3)]
    marker = s3.delete_object(Bucket=name, Key="k")
    assert marker["DeleteMarker"] and code(s3.get_object, Bucket=name, Key="k")[0] == 404
    assert "Contents" not in s3.list_objects_v2(Bucket=name)
    for number, version in enumerate(ids):
        assert read(name, "k", VersionId=version) == b"%d" % number
    assert read(name, "k", VersionId="null") == b"before"
    s3.delete_object(Bucket=name, Key="k", VersionId=marker["VersionId"])
    assert read(name, "k") == b"2"
    listed = s3.list_object_versions(Bucket=name)
    assert [one["VersionId"] for one in listed["Versions"]] == ids[::-1] + ["null"]
    for one in listed["Versions"]:
        s3.delete_object(Bucket=name, Key="k", VersionId=one["VersionId"])
    s3.delete_bucket(Bucket=name)


def check_presigned_urls():
    name = bucket("presigned")
    url = s3.generate_presigned_url("put_object", {"Bucket": name, "Key": "k"}, ExpiresIn=60)
    request = urllib.request.Request(url, data=b"by url", method="PUT")
    assert urllib.request.urlopen(request).status == 200
    url = s3.generate_presigned_url("get_object", {"Bucket": name, "Key": "k"}, ExpiresIn=60)
    assert urllib.request.urlopen(url).read() == b"by url"
    for bad in [url.replace("/k?", "/other?"), url[:-1] + ("0" if url[-1] != "0" else "1")]:
        try:
            urllib.request.urlopen(bad)
            raise AssertionError("a changed URL is refused")
        except urllib.error.HTTPError as error:
            assert error.code == 403, error.code


def check_policies_tell_plain_http_apart():
    name = bucket("transport")
    s3.put_object(Bucket=name, Key="k", Body=b"x")
    for secure, status in [("true", 403), ("false", 200)]:
        s3.put_bucket_policy(Bucket=name, Policy=json.dumps({
            "Version": "2012-10-17",
            "Statement": {
                "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                "Resource": f"arn:aws:s3:::{name}/*",
                "Condition": {"Bool": {"aws:SecureTransport": secure}},
            },
        }))
        try:
            assert urllib.request.urlopen(f"{ENDPOINT}/{name}/k").status == status
        except urllib.error.HTTPError as error:
            assert error.code == status, error.code


def check_a_policy_that_shows_parts_does_no_more():
    name = bucket("shown-parts")
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps({
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow", "Principal": "*", "Action": "s3:ListMultipartUploadParts",
            "Resource": f"arn:aws:s3:::{name}/*",
        },
    }))
    upload = s3.create_multipart_upload(Bucket=name, Key="k")["UploadId"]
    one = dict(Bucket=name, Key="k", UploadId=upload)
    s3.upload_part(PartNumber=1, Body=b"x", **one)
    nobody = client(signature_version=UNSIGNED)
    assert [part["Size"] for part in nobody.list_parts(**one)["Parts"]] == [1]
    for refused in [nobody.upload_part, nobody.abort_multipart_upload]:
        more = {"PartNumber": 2, "Body": b"y"} if refused == nobody.upload_part else {}
        assert code(refused, **one, **more)[0] == 403


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


def check(names):
    results = {"passed": [], "failed": {}}
    for one in CHECKS:
        name = one.__name__.removeprefix("check_")
        if names and name not in names:
            continue
        try:
            one()
            results["passed"].append(name)
        except Exception:
            results["failed"][name] = traceback.format_exc()
    print(json.dumps(results))


LEDGER = "ledger"


def write(path, seed):
    """Each line of the ledger is one key that was acknowledged, and the digest of its bytes."""
    dice = random.Random(seed)
    lock = threading.Lock()
    with open(path, "a", buffering=1) as ledger:

        def work(thread):
            mine = random.Random(dice.random() + thread)
            for number in range(100_000):
                key = f"{seed}/{thread}/{number}"
                kind = mine.random()
                size = mine.choice([10, 5000, 200_000]) if kind < 0.9 else 5 * MIB + 7
                body = mine.randbytes(size)
                if kind < 0.9:
                    s3.put_object(Bucket=LEDGER, Key=key, Body=body)
                else:
                    transfer = TransferConfig(
                        multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB,
                        use_threads=False)
                    s3.upload_fileobj(io.BytesIO(body), LEDGER, key, Config=transfer)
                digest = hashlib.sha256(body).hexdigest()
                with lock:
                    ledger.write(f"{key} {digest}\n")
                if mine.random() < 0.2:
                    with lock:
                        ledger.write(f"{key} -\n")
                    s3.delete_object(Bucket=LEDGER, Key=key)
                    with lock:
                        ledger.write(f"{key} gone\n")

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(work, thread) for thread in range(8)]:
                # The server went away.
                done.exception()


def verify(path, later=None):
    """`later` is the ledger of a moment after the server went: what had been begun until then."""
    noted, begun = {}, set()
    with open(path) as ledger:
        for line in ledger:
            key, said = line.split()
            noted[key] = said
    with open(later or path) as ledger:
        for line in ledger:
            key, said = line.split()
            if said == "-":
                begun.add(key)
    for key in begun:
        if noted.get(key) not in (None, "gone"):
            noted[key] = "-"
    lost = []

    def look(item):
        key, said = item
        try:
            found = hashlib.sha256(read(LEDGER, key)).hexdigest()
        except ClientError:
            found = "gone"
        # A delete that was begun may have happened or not.
        if said != "-" and found != said:
            lost.append(f"{key}: {said}, found {found}")

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(look, noted.items()))
    listed = set()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=LEDGER):
        listed |= {one["Key"] for one in page.get("Contents", [])}
    there = {key for key, said in noted.items() if said not in ("-", "gone")}
    lost += [f"{key} is not listed" for key in there - listed]
    for one in s3.list_multipart_uploads(Bucket=LEDGER).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=LEDGER, Key=one["Key"], UploadId=one["UploadId"])
    print(json.dumps({"noted": len(noted), "lost": lost}))


def urls(name, keys):
    """Presigned URLs to put these keys."""
    made = [
        s3.generate_presigned_url("put_object", {"Bucket": name, "Key": key}, ExpiresIn=600)
        for key in keys
    ]
    print(json.dumps([url.removeprefix(ENDPOINT) for url in made]))


def operations(upload):
    """Every operation on the bucket `shut` and the object `k` in it, as name and arguments."""
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*",' \
        '"Action":"s3:*","Resource":["arn:aws:s3:::shut","arn:aws:s3:::shut/*"]}]}'
    everything = {"Rules": [{"ID": "a", "Status": "Enabled", "Filter": {"Prefix": ""},
                             "Expiration": {"Days": 1}}]}
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    days = {"Mode": "GOVERNANCE", "RetainUntilDate": "2099-01-01T00:00:00Z"}
    cors = {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}
    ownership = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    source = {"Bucket": "shut", "Key": "k"}
    part = {"Key": "big", "UploadId": upload}
    of_bucket = {
        "head_bucket": {}, "delete_bucket": {}, "get_bucket_location": {}, "list_objects": {},
        "list_objects_v2": {}, "list_object_versions": {}, "list_multipart_uploads": {},
        "get_bucket_versioning": {},
        "put_bucket_versioning": {"VersioningConfiguration": {"Status": "Suspended"}},
        "get_bucket_acl": {}, "put_bucket_acl": {"ACL": "public-read-write"},
        "get_bucket_policy": {}, "put_bucket_policy": {"Policy": policy},
        "delete_bucket_policy": {}, "get_bucket_policy_status": {},
        "get_bucket_cors": {}, "put_bucket_cors": {"CORSConfiguration": cors},
        "delete_bucket_cors": {}, "get_bucket_tagging": {},
        "put_bucket_tagging": {"Tagging": tags}, "delete_bucket_tagging": {},
        "get_bucket_lifecycle_configuration": {},
        "put_bucket_lifecycle_configuration": {"LifecycleConfiguration": everything},
        "delete_bucket_lifecycle": {}, "get_object_lock_configuration": {},
        "put_object_lock_configuration": {
            "ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}},
        "get_public_access_block": {},
        "put_public_access_block": {
            "PublicAccessBlockConfiguration": {"BlockPublicAcls": False}},
        "delete_public_access_block": {}, "get_bucket_ownership_controls": {},
        "put_bucket_ownership_controls": {"OwnershipControls": ownership},
        "delete_bucket_ownership_controls": {}, "get_bucket_encryption": {},
        "get_bucket_website": {}, "get_bucket_logging": {}, "get_bucket_request_payment": {},
        "get_bucket_notification_configuration": {},
        "delete_objects": {"Delete": {"Objects": [{"Key": "k"}]}},
    }
    of_object = {
        "get_object": {}, "head_object": {}, "put_object": {"Body": b"mine"}, "delete_object": {},
        "get_object_attributes": {"ObjectAttributes": ["ETag"]},
        "get_object_acl": {}, "put_object_acl": {"ACL": "public-read"},
        "get_object_tagging": {}, "put_object_tagging": {"Tagging": tags},
        "delete_object_tagging": {}, "get_object_retention": {},
        "put_object_retention": {"Retention": days}, "get_object_legal_hold": {},
        "put_object_legal_hold": {"LegalHold": {"Status": "ON"}}, "get_object_torrent": {},
        "create_multipart_upload": {}, "copy_object": {"CopySource": source},
        "upload_part": {**part, "PartNumber": 1, "Body": b"mine"},
        "upload_part_copy": {**part, "PartNumber": 1, "CopySource": source},
        "list_parts": part, "abort_multipart_upload": part,
        "complete_multipart_upload": {
            **part, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "x"}]}},
    }
    for name, arguments in of_bucket.items():
        yield name, {"Bucket": "shut", **arguments}
    for name, arguments in of_object.items():
        yield name, {"Bucket": "shut", "Key": "k", **arguments}


def strangers(key, secret):
    bucket("shut", ObjectLockEnabledForBucket=True)
    s3.put_object(Bucket="shut", Key="k", Body=b"theirs")
    upload = s3.create_multipart_upload(Bucket="shut", Key="big")["UploadId"]
    other = client(key, secret)
    other.create_bucket(Bucket="own")
    let_in, asked = [], 0

    def tell(who, name, refused):
        # A HEAD has no body to say more.
        if refused not in ((403, "AccessDenied"), (403, "403")):
            let_in.append([who, name, refused])

    for who, stranger in [("other", other), ("nobody", client(signature_version=UNSIGNED))]:
        for name, arguments in operations(upload):
            if name == "delete_objects":
                # Refused as a whole, or each of them.
                try:
                    answer = stranger.delete_objects(**arguments)
                    refused = (403, answer["Errors"][0]["Code"])
                except ClientError as error:
                    refused = (403, error.response["Error"]["Code"])
            else:
                refused = code(getattr(stranger, name), **arguments)
            tell(who, name, refused)
            asked += 1
    # Nor does a bucket of one's own open another one as a source.
    source = {"Bucket": "shut", "Key": "k"}
    tell("other", "copy", code(other.copy_object, Bucket="own", Key="k", CopySource=source))
    own = other.create_multipart_upload(Bucket="own", Key="k")["UploadId"]
    part = dict(Bucket="own", Key="k", UploadId=own, PartNumber=1, CopySource=source)
    tell("other", "part copy", code(other.upload_part_copy, **part))
    # An upload is of the bucket that it was begun in.
    mixed = dict(Bucket="own", Key="big", UploadId=upload)
    assert code(other.list_parts, **mixed) == (404, "NoSuchUpload")
    assert code(other.abort_multipart_upload, **mixed) == (404, "NoSuchUpload")
    versions = s3.list_object_versions(Bucket="shut")
    assert [one["Key"] for one in versions["Versions"]] == ["k"], versions
    assert "DeleteMarkers" not in versions and read("shut", "k") == b"theirs"
    uploads = s3.list_multipart_uploads(Bucket="shut")["Uploads"]
    assert [one["UploadId"] for one in uploads] == [upload]
    print(json.dumps({"asked": asked, "let_in": let_in}))


if __name__ == "__main__":
    mode, rest = sys.argv[4], sys.argv[5:]
    if mode == "check":
        check(rest)
    elif mode == "strangers":
        strangers(*rest)
    elif mode == "urls":
        urls(rest[0], rest[1:])
    elif mode == "write":
        write(rest[0], int(rest[1]))
    else:
        verify(*rest)
