// Applications of Express and Fastify that count how often each handler ran; see upstreams.py.
"use strict";

const [framework, port] = process.argv.slice(2);
const ran = {};
const routes = {
  "/orders": "orders", "/orders/:id": "order", "/café": "café", "/free": "free", "/up": "free",
};

function handle(name, method, headers, cookies, params) {
  const names = [name, `${name} ${method}`];
  const who = {
    id: params.id,
    session: cookies.session,
    key: headers["x-api-key"],
    bearer: (headers.authorization || "").split(" ")[1],
    user: headers["x-user"],
  };
  for (const [kind, value] of Object.entries(who)) if (value) names.push(`${name} ${kind}=${value}`);
  for (const one of names) ran[one] = (ran[one] || 0) + 1;
  return `${framework} ${name}`;
}

if (framework === "express") {
  const express = require("express");
  const app = express();
  app.use(require("cookie-parser")());
  app.use(express.raw({ type: () => true, limit: "10mb" }));
  app.get("/-/ran", (request, response) => response.json(ran));
  for (const [path, name] of Object.entries(routes)) {
    const answer = (request, response) =>
      response.send(handle(name, request.method, request.headers, request.cookies, request.params));
    app.all(encodeURI(path), answer); // Express compares its pattern with the path as it was sent
  }
  app.listen(port, "127.0.0.1");
} else {
  const app = require("fastify")();
  app.register(require("@fastify/cookie"));
  app.addContentTypeParser("*", { parseAs: "buffer" }, (request, body, done) => done(null, body));
  app.get("/-/ran", async () => ran);
  for (const [url, name] of Object.entries(routes)) {
    const handler = async (request) =>
      handle(name, request.method, request.headers, request.cookies, request.params);
    app.route({ method: ["GET", "POST", "OPTIONS"], url, handler });
  }
  app.listen({ port, host: "127.0.0.1" });
}
