// What programs do with the S3 clients for JavaScript, run by the test `s3clients`.
//
// client.cjs aws|minio HOST PORT KEY SECRET SCRATCH    prints "ok" at its end

"use strict";
const assert = require("assert");
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");

const [which, host, port, key, secret, scratch] = process.argv.slice(2);
const endpoint = `http://${host}:${port}`;
const big = crypto.randomBytes(20 << 20);
const file = path.join(scratch, "big");
const odd = "a b/ä+%.txt";

async function aws() {
  const s3 = require("@aws-sdk/client-s3");
  const { Upload } = require("@aws-sdk/lib-storage");
  const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");
  const client = new s3.S3Client({
    endpoint,
    region: "us-east-1",
    credentials: { accessKeyId: key, secretAccessKey: secret },
    forcePathStyle: true,
  });
  const Bucket = "aws-sdk-js";
  const run = (name, input) => client.send(new s3[`${name}Command`]({ Bucket, ...input }));
  const read = async (input) => {
    const answer = await run("GetObject", input);
    return Buffer.from(await answer.Body.transformToByteArray());
  };
  const refused = async (name, input, code) => {
    await assert.rejects(run(name, input), (error) => error.name === code);
  };

  await run("CreateBucket", {});
  await run("PutObject", { Key: odd, Body: "hello", Metadata: { who: "js" } });
  const got = await run("GetObject", { Key: odd, ChecksumMode: "ENABLED" });
  assert.equal(await got.Body.transformToString(), "hello");
  assert.equal(got.Metadata.who, "js");
  assert.equal(got.ChecksumCRC32, "NhCmhg==");

  // A stream is sent in chunks, its checksum in the trailer.
  const stream = fs.createReadStream(file);
  await run("PutObject", { Key: "stream", Body: stream, ContentLength: big.length });
  const upload = new Upload({
    client,
    params: { Bucket, Key: "parts", Body: fs.createReadStream(file) },
    partSize: 5 << 20,
  });
  assert.match((await upload.done()).ETag, /-4"$/);
  for (const Key of ["stream", "parts"]) {
    assert((await read({ Key })).equals(big), Key);
  }
  const some = await read({ Key: "parts", Range: "bytes=5242870-5242889" });
  assert(some.equals(big.subarray(5242870, 5242890)));

  await refused("PutObject", { Key: "stream", Body: "x", IfNoneMatch: "*" }, "PreconditionFailed");
  await refused("HeadObject", { Key: "none" }, "NotFound");
  await refused("GetObject", { Key: "none" }, "NoSuchKey");
  const keys = [];
  const pages = s3.paginateListObjectsV2({ client, pageSize: 2 }, { Bucket });
  for await (const page of pages) {
    keys.push(...page.Contents.map((one) => one.Key));
  }
  assert.deepEqual(keys, [odd, "parts", "stream"]);
  await run("CopyObject", { Key: "copy", CopySource: encodeURIComponent(`${Bucket}/${odd}`) });

  const url = (name, input, more) =>
    getSignedUrl(client, new s3[`${name}Command`]({ Bucket, ...input }), { expiresIn: 60, ...more });
  const fetched = await fetch(await url("GetObject", { Key: "copy" }));
  assert.equal(await fetched.text(), "hello");
  // Headers are written into the URL, and the checksum of a body that the SDK does not know.
  const put = await url("PutObject", { Key: "by-url", Metadata: { who: "url" }, Tagging: "a=b" });
  assert.match(put, /x-amz-checksum-crc32=AAAAAA/);
  assert.equal((await fetch(put, { method: "PUT", body: "by url" })).status, 200);
  assert.equal((await read({ Key: "by-url" })).toString(), "by url");
  assert.equal((await run("HeadObject", { Key: "by-url" })).Metadata.who, "url");
  const tags = await run("GetObjectTagging", { Key: "by-url" });
  assert.deepEqual(tags.TagSet, [{ Key: "a", Value: "b" }]);
  const digest = await url("PutObject", { Key: "never", ChecksumCRC32: "NhCmhg==" });
  assert.equal((await fetch(digest, { method: "PUT", body: "other" })).status, 400);
  await refused("HeadObject", { Key: "never" }, "NotFound");

  await run("PutBucketVersioning", { VersioningConfiguration: { Status: "Enabled" } });
  const Objects = [{ Key: "copy" }, { Key: "by-url" }];
  assert.equal((await run("DeleteObjects", { Delete: { Objects } })).Deleted.length, 2);
  const { Versions, DeleteMarkers } = await run("ListObjectVersions", {});
  assert.deepEqual([Versions.length, DeleteMarkers.length], [5, 2]);
  const all = [...Versions, ...DeleteMarkers].map(({ Key, VersionId }) => ({ Key, VersionId }));
  await run("DeleteObjects", { Delete: { Objects: all } });
  await run("DeleteBucket", {});
}

async function minio() {
  const { Client } = require("minio");
  const options = { endPoint: host, port: Number(port), useSSL: false };
  const client = new Client({ ...options, accessKey: key, secretKey: secret });
  const bucket = "minio-js";
  const names = async (stream) => {
    const found = [];
    for await (const one of stream) {
      found.push(one.name ?? one.prefix ?? one.key);
    }
    return found;
  };

  await client.makeBucket(bucket, "us-east-1");
  await client.fPutObject(bucket, "big", file, { "x-amz-meta-who": "js" });
  await client.putObject(bucket, odd, "hello");
  const stat = await client.statObject(bucket, "big");
  assert.deepEqual([stat.size, stat.metaData.who], [big.length, "js"]);
  await client.fGetObject(bucket, "big", path.join(scratch, "got"));
  assert(fs.readFileSync(path.join(scratch, "got")).equals(big));
  assert.deepEqual(await names(client.listObjectsV2(bucket, "", true)), [odd, "big"]);
  assert.deepEqual(await names(client.listObjectsV2(bucket, "", false)), ["big", "a b/"]);

  const upload = await client.initiateNewMultipartUpload(bucket, "left/behind", {});
  assert.deepEqual(await names(client.listIncompleteUploads(bucket, "", true)), ["left/behind"]);
  assert.deepEqual(await names(client.listIncompleteUploads(bucket, "", false)), ["left/"]);
  await client.abortMultipartUpload(bucket, "left/behind", upload);

  const url = await client.presignedGetObject(bucket, odd, 60);
  assert.equal(await (await fetch(url)).text(), "hello");
  const policy = client.newPostPolicy();
  policy.setBucket(bucket);
  policy.setKey("posted");
  policy.setExpires(new Date(Date.now() + 60000));
  policy.setContentLengthRange(1, 100);
  const { formData } = await client.presignedPostPolicy(policy);
  const form = new FormData();
  Object.entries(formData).forEach(([name, value]) => form.append(name, value));
  form.append("file", new Blob(["posted"]));
  assert.equal((await fetch(`${endpoint}/${bucket}`, { method: "POST", body: form })).status, 204);

  const plain = `${endpoint}/${bucket}/posted`;
  assert.equal((await fetch(plain)).status, 403);
  const Statement = [{
    Effect: "Allow",
    Principal: { AWS: ["*"] },
    Action: ["s3:GetObject"],
    Resource: [`arn:aws:s3:::${bucket}/*`],
  }];
  const Version = "2012-10-17";
  await client.setBucketPolicy(bucket, JSON.stringify({ Version, Statement }));
  assert.equal(await (await fetch(plain)).text(), "posted");

  await client.removeObjects(bucket, ["big", odd, "posted"]);
  await client.removeBucket(bucket);
}

fs.writeFileSync(file, big);
({ aws, minio })[which]().then(() => console.log("ok"));
