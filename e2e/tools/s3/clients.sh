#!/usr/bin/env bash
# What people do with S3 clients on the command line; run by the test `s3clients`.
#
# clients.sh CLIENT HOST:PORT KEY SECRET TOOLS SCRATCH: ends with 0 if all of it worked.
set -euo pipefail
client=$1 address=$2 tools=$5 scratch=$6
export AWS_ACCESS_KEY_ID=$3 AWS_SECRET_ACCESS_KEY=$4 AWS_DEFAULT_REGION=us-east-1
export PYTHONPATH=$tools PYTHONDONTWRITEBYTECODE=1 HOME=$scratch
cd "$scratch"

# Files of many sizes and odd names, some of them large enough for several parts.
mkdir -p "files/sub dir/deep"
for size in 0 1 4096 131072 131073 3000000; do head -c "$size" /dev/urandom >"files/f $size"; done
head -c 20000000 /dev/urandom >files/large
for n in $(seq 40); do echo "$n" >"files/sub dir/deep/n+$n&.txt"; done

awscli() {
  aws() { python3 "$tools/bin/aws" --endpoint-url "http://$address" "$@"; }
  aws s3 mb s3://awscli
  aws s3 sync --only-show-errors files s3://awscli/files
  aws s3 sync --only-show-errors s3://awscli/files back
  diff -r files back
  test -z "$(aws s3 sync --dryrun files s3://awscli/files)"
  aws s3 cp --only-show-errors s3://awscli/files/large s3://awscli/copy
  aws s3 cp --only-show-errors s3://awscli/copy - | cmp - files/large
  test "$(aws s3 ls --recursive s3://awscli | wc -l)" = 48
  aws s3 mv --only-show-errors s3://awscli/copy s3://awscli/moved
  aws s3api head-object --bucket awscli --key moved >head.json
  ! aws s3api head-object --bucket awscli --key copy 2>/dev/null
  aws s3 rb --force s3://awscli >/dev/null
}

s3cmd() {
  cat >config <<EOF
[default]
access_key = $AWS_ACCESS_KEY_ID
secret_key = $AWS_SECRET_ACCESS_KEY
host_base = $address
host_bucket = $address
use_https = False
EOF
  s3() { python3 "$tools/bin/s3cmd" --config config --no-progress --quiet "$@"; }
  s3 mb s3://s3cmd
  s3 sync files/ s3://s3cmd/files/
  mkdir back && s3 sync s3://s3cmd/files/ back/
  diff -r files back
  s3 put --multipart-chunk-size-mb=5 files/large s3://s3cmd/large
  s3 get s3://s3cmd/large large && cmp large files/large
  s3 cp s3://s3cmd/large s3://s3cmd/copy
  s3 del --recursive --force s3://s3cmd/
  s3 rb s3://s3cmd
}

rclone() {
  export RCLONE_CONFIG_L_TYPE=s3 RCLONE_CONFIG_L_PROVIDER=Other RCLONE_CONFIG_L_ENDPOINT=http://$address
  export RCLONE_CONFIG_L_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID RCLONE_S3_CHUNK_SIZE=5Mi
  export RCLONE_CONFIG_L_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY RCLONE_S3_UPLOAD_CUTOFF=5Mi
  r() { "$tools/bin/rclone" --config /dev/null "$@"; }
  r mkdir l:rclone
  r sync files l:rclone/files
  r check --download files l:rclone/files
  rm "files/f 1" && echo changed >"files/f 0" && mv files/large files/moved
  r sync files l:rclone/files
  r check --download files l:rclone/files
  r moveto l:rclone/files/moved l:rclone/elsewhere
  r cat l:rclone/elsewhere | cmp - files/moved
  r purge l:rclone
}

restic() {
  export RESTIC_REPOSITORY=s3:http://$address/restic RESTIC_PASSWORD=secret
  run() { command restic --cache-dir cache --quiet "$@"; }
  run init
  run backup files
  echo more >files/more
  run backup files
  run check --read-data
  run restore latest --target back
  diff -r files back/files
  run forget --keep-last 1 --prune
  run check
}

minio() {
  python3 - "$address" <<'EOF'
import io, os, sys
import minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject
client = minio.Minio(
    sys.argv[1], os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], secure=False)
client.make_bucket("minio")
client.fput_object("minio", "large", "files/large", part_size=5 << 20, metadata={"who": "me"})
client.fget_object("minio", "large", "large")
assert open("large", "rb").read() == open("files/large", "rb").read()
assert client.stat_object("minio", "large").metadata["x-amz-meta-who"] == "me"
client.put_object("minio", "a/b", io.BytesIO(b"unknown length"), -1, part_size=5 << 20)
client.copy_object("minio", "c", CopySource("minio", "a/b"))
assert client.get_object("minio", "c").data == b"unknown length"
names = sorted(one.object_name for one in client.list_objects("minio"))
assert names == ["a/", "c", "large"], names
left = [DeleteObject(one.object_name) for one in client.list_objects("minio", recursive=True)]
assert not list(client.remove_objects("minio", left))
client.remove_bucket("minio")
EOF
}

"$client"
