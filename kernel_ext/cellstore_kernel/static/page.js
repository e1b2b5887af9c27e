/**
 * What all widgets of a page share: one painter, and one link per server.
 *
 * A page served by Jupyter carries its address in `#jupyter-config-data`; VS Code, Colab and static pages do not, and
 * that is how we tell. Being served by *a* Jupyter server is not enough: the kernel may have been pointed at another
 * one. `server.own` says that the kernel was started by the server it uses; else the addresses must agree.
 */

import { decode } from "./codec.js";
import { Painter, RelayLink, SocketLink } from "./links.js";
import { failureOf } from "./machine.js";

const painter = new Painter();
const links = new Map();

/** The link for a widget. @param {any} model */
export function linkFor(model) {
  const server = model.get("server") ?? {};
  const base = directBase(server);
  if (base) return once(`socket ${base} ${server.deployment}`, () => new SocketLink(base, server.deployment, painter));
  const link = once(`relay ${server.relay}`, () => new RelayLink(painter, server.url ? "relay" : "embedded", server.own));
  link.adopt(model);
  for (const [path, args] of queriesOf(model)) {
    const snapshot = snapshotOf(model);
    if (!snapshot.partial) link.seed(`${path}\0${args}`, snapshot.result, snapshot.ts);
  }
  return link;
}

/** The base URL to dial, or null where only the kernel knows the way. */
export function directBase(server, config = pageConfig(), location = globalThis.location) {
  if (!config?.baseUrl || !server.url) return null;
  const base = new URL(config.baseUrl, location.href).href;
  if (!base.startsWith("http")) return null;
  return server.own || samePlace(base, server.url) ? base : null;
}

/** What a widget was saved or opened with: `{result, ts, partial, total}`. */
export function snapshotOf(model) {
  const saved = model.get("snapshot") ?? {};
  const ts = BigInt(saved.ts ?? 0);
  const failure = saved.error ? failureOf(decode(saved.error)) : null;
  const value = saved.value ? decode(saved.value) : null;
  const logs = saved.logs ?? [];
  const result = saved.value || failure ? { value, failure, logs, journal: null } : null;
  return { result, ts, partial: Boolean(saved.partial), total: saved.total ?? null };
}

export function queriesOf(model) {
  return model.get("queries") ?? [];
}

export function pageConfig() {
  try {
    return JSON.parse(document.getElementById("jupyter-config-data").textContent);
  } catch {
    return null;
  }
}

function samePlace(a, b) {
  const place = (text) => {
    const { hostname, port, pathname } = new URL(text);
    return `${["127.0.0.1", "[::1]", "0.0.0.0"].includes(hostname) ? "localhost" : hostname}:${port}${pathname}`;
  };
  return place(a) === place(b);
}

function once(key, make) {
  if (!links.has(key)) links.set(key, make());
  return links.get(key);
}
