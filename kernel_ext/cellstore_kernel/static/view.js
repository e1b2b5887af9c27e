/**
 * `cs.view`: what the kernel drew, and whether it is still true.
 *
 * The kernel runs the block again when a query it used changes, and says so at once: it may be busy for a while. This
 * page hears of changes itself, too, so even where the kernel is dead or hung it can say that the drawing is old.
 */

import { same } from "./codec.js";
import { Frame } from "./frame.js";
import { linkFor, queriesOf } from "./page.js";
import { h } from "./values.js";

const PATIENCE_MS = 700; // a block may take a while; only then is the drawing called behind

export function renderView({ model, el }) {
  const link = linkFor(model);
  const frame = new Frame(el, "view", { label: model.get("label"), link, transport: "kernel" });
  const out = h("div", { class: "cs-view-out cs-place" });
  frame.body.append(out);
  let changedAt = 0n;
  let timer = 0;
  let stops = [];

  const judge = () => {
    clearTimeout(timer);
    const drawnAt = BigInt(model.get("ts") || "0");
    const retired = model.get("options")?.note;
    if (retired) frame.note = retired;
    else if (changedAt <= drawnAt && !model.get("behind")) frame.note = "";
    else timer = setTimeout(() => ((frame.note = "changed; waiting for the kernel"), frame.showState()), PATIENCE_MS);
    frame.showState();
  };
  const watch = () => {
    for (const stop of stops) stop();
    stops = queriesOf(model).map(([path, args]) => {
      let last = null;
      return link.watch(path, args, (result, ts) => {
        if (last && differs(last, result) && ts > changedAt) changedAt = ts;
        last = result;
        judge();
      });
    });
  };
  const draw = () => {
    const failure = model.get("failure");
    frame.showFailure(failure ? { function: "", ...failure } : null);
    out.replaceChildren(...(model.get("outputs") ?? []).map(drawn));
    frame.showTime(BigInt(model.get("ts") || "0"), "drawn from the data of");
    judge();
  };

  model.on("change:outputs", draw);
  model.on("change:failure", draw);
  model.on("change:ts", draw);
  model.on("change:behind", judge);
  model.on("change:options", judge);
  model.on("change:queries", watch);
  draw();
  watch();
  return () => {
    clearTimeout(timer);
    for (const stop of stops) stop();
    model.off("change:outputs", draw);
    model.off("change:failure", draw);
    model.off("change:ts", draw);
    model.off("change:behind", judge);
    model.off("change:options", judge);
    model.off("change:queries", watch);
    frame.close();
  };
}

/** Whether a block would draw something else: another value, or a failure that came or went. */
function differs(old, now) {
  return Boolean(old.failure) !== Boolean(now.failure) || (!now.failure && !same(old.value, now.value));
}

/** One output of the block: [mime, text, width?]; images are base64. */
function drawn([mime, text, width]) {
  if (mime === "image/png") {
    return h("img", { src: `data:image/png;base64,${text}`, alt: "", width: width ? String(width) : null });
  }
  if (mime === "image/svg+xml") {
    return h("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`, alt: "" });
  }
  if (mime === "text/html") return h("div", { class: "jp-RenderedHTMLCommon jp-RenderedHTML" }, ...harmless(text));
  return h("pre", {}, text);
}

/** HTML without anything that acts: what a block shows may hold text that somebody else put into the store. */
export function harmless(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const each of page.querySelectorAll("script, iframe, object, embed, link, meta, base, form")) each.remove();
  for (const element of page.querySelectorAll("*")) {
    for (const { name, value } of [...element.attributes]) {
      const address = /^(href|src|xlink:href|action|formaction|srcdoc)$/i.test(name);
      if (/^on/i.test(name) || (address && !/^(https?:|data:image\/|#|[^:]*$)/i.test(value.trim()))) {
        element.removeAttribute(name);
      }
    }
  }
  return [...page.head.querySelectorAll("style"), ...page.body.childNodes];
}
