// Drives tus-js-client as a program would: `node client.cjs MODE ENDPOINT FILE NAME AUTHORIZATION`.
// Prints one line of JSON. NODE_PATH says where the package is.
'use strict';
const fs = require('node:fs');
const { PassThrough } = require('node:stream');
const tus = require('tus-js-client');

const [mode, endpoint, file, name, authorization] = process.argv.slice(2);
const size = fs.statSync(file).size;
const retries = Array.from({ length: 60 }, (_, n) => Math.min(100 + 50 * n, 1000));
let tries = 0;

function options(more, done, failed) {
  return {
    endpoint,
    headers: { Authorization: authorization },
    metadata: { filename: name, filetype: 'application/x-larder-test' },
    retryDelays: retries,
    onShouldRetry: (error) => {
      tries += 1;
      const status = error.originalResponse ? error.originalResponse.getStatus() : 0;
      return status === 0 || status === 409 || status === 423 || status >= 500;
    },
    onError: failed,
    onSuccess: done,
    ...more,
  };
}

function run(more, source = fs.createReadStream(file)) {
  return new Promise((resolve, reject) => {
    const upload = new tus.Upload(source, options(more, () => resolve(upload), reject));
    upload.start();
  });
}

// Stops after the first piece, forgets everything but the URL, and goes on by it.
async function resume() {
  const url = await new Promise((resolve, reject) => {
    let upload;
    const onChunkComplete = () => upload.abort().then(() => resolve(upload.url), reject);
    const more = { chunkSize: Math.ceil(size / 3), onChunkComplete };
    upload = new tus.Upload(fs.createReadStream(file), options(more, () => {}, reject));
    upload.start();
  });
  return run({ uploadUrl: url });
}

async function terminate() {
  const url = await new Promise((resolve, reject) => {
    let upload;
    const onChunkComplete = () => upload.abort(true).then(() => resolve(upload.url), reject);
    const more = { chunkSize: Math.ceil(size / 3), onChunkComplete };
    upload = new tus.Upload(fs.createReadStream(file), options(more, () => {}, reject));
    upload.start();
  });
  return { url };
}

const modes = {
  stream: () => run({}),
  chunks: () => run({ chunkSize: 1 << 20 }),
  creation: () => run({ uploadDataDuringCreation: true, chunkSize: 1 << 20 }),
  // Of a stream that is no file nobody knows the length beforehand.
  deferred: () => run(
    { uploadLengthDeferred: true, chunkSize: 1 << 20 },
    fs.createReadStream(file).pipe(new PassThrough()),
  ),
  parallel: () => run({
    parallelUploads: 4,
    metadataForPartialUploads: { filename: name },
  }),
  override: () => run({ overridePatchMethod: true, chunkSize: 1 << 20 }),
  resume,
  terminate,
};

modes[mode]().then(
  (upload) => console.log(JSON.stringify({ url: upload.url, tries })),
  (error) => {
    console.error(String(error));
    process.exit(1);
  },
);
