// node.js: the applications of benchmarks/apps.py for Node's cluster, with one worker.
//
//     node node.js PORT APP FOLDER

"use strict";

const cluster = require("node:cluster");
const fs = require("node:fs");
const http = require("node:http");

const [port, app, folder] = process.argv.slice(2);
const HELLO = "hello world\n";
const BIG = Buffer.alloc(100 * 1024, "x");
const PIECE = Buffer.alloc(100, "x");
const OBJECT = { message: "hello world", number: 4711, list: [1, 2, 3] };

function answer(response, type, body) {
  response.writeHead(200, { "Content-Type": type, "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

const applications = {
  hello: (request, response) => answer(response, "text/plain", HELLO),
  big: (request, response) => answer(response, "text/plain", BIG),
  json: (request, response) => answer(response, "application/json", JSON.stringify(OBJECT)),
  echo: (request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => answer(response, "application/octet-stream", Buffer.concat(parts)));
  },
  stream: (request, response) => {
    response.writeHead(200, { "Content-Type": "text/plain" });
    for (let number = 0; number < 10; number += 1) response.write(PIECE);
    response.end();
  },
  file: (request, response) => {
    const path = folder + request.url;
    const size = fs.statSync(path).size;
    response.writeHead(200, {
      "Content-Type": "application/octet-stream",
      "Content-Length": size,
    });
    fs.createReadStream(path).pipe(response);
  },
  wait: (request, response) => setTimeout(() => answer(response, "text/plain", HELLO), 10),
};

if (cluster.isPrimary) {
  cluster.fork();
  cluster.on("exit", (worker, code) => process.exit(code || 1));
  process.on("SIGTERM", () => process.exit(0));
} else {
  http.createServer(applications[app]).listen({ port: Number(port), host: "127.0.0.1" });
}
