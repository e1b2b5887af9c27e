/**
 * The module every widget carries: it finds the code that all widgets of the page share, once per page and release.
 *
 * From the server where the page has one, else from the widget (no server then), else from the kernel.
 */

const page = (globalThis[Symbol.for("cellstore")] ??= new Map()); // release → Promise of the shared module

async function shared(model) {
  const release = model.get("release");
  if (!page.has(release)) {
    page.set(release, fromServer(release).catch(() => fromWidget(model)));
    page.get(release).catch(() => page.delete(release)); // the next widget may have more luck
  }
  return page.get(release);
}

async function fromServer(release) {
  const config = JSON.parse(document.getElementById("jupyter-config-data").textContent);
  const url = new URL(`${config.baseUrl}static/cellstore/client.js?v=${release}`, location.href);
  return import(url.href);
}

async function fromWidget(model) {
  const source = model.get("source") || (await askKernel(model));
  return import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
}

function askKernel(model) {
  return new Promise((resolve) => {
    const hear = (content) => {
      if (content?.kind !== "source") return;
      model.off("msg:custom", hear);
      resolve(content.source);
    };
    model.on("msg:custom", hear);
    model.send({ kind: "source" });
  });
}

export default {
  async initialize({ model }) {
    (await shared(model)).initialize({ model });
  },
  async render(context) {
    context.el.textContent = "cellstore: loading …";
    const module = await shared(context.model);
    context.el.textContent = "";
    return module.render(context);
  },
};
