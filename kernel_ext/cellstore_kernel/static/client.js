/**
 * The code all widgets of a page share. `loader.js`, which every widget carries, hands its models over to this module.
 *
 *     codec     native JSON: every value exactly            machine   the sync protocol, pure
 *     links     socket or relay, one paint per commit       page      one link per server for the whole page
 *     values    values as text                              frame     label, time, badge, errors
 *     saved     with the notebook, also without a kernel    live grid form view    one renderer each
 */

import { renderButton, renderForm } from "./form.js";
import { renderGrid } from "./grid.js";
import { renderLive } from "./live.js";
import { linkFor } from "./page.js";
import { saveWithoutKernel } from "./saved.js";
import { renderView } from "./view.js";

const RENDERERS = { live: renderLive, grid: renderGrid, view: renderView, form: renderForm, button: renderButton };

/** A model exists, shown or not: a relay may choose it to carry steps. */
export function initialize({ model }) {
  saveWithoutKernel(model);
  linkFor(model);
}

/** Show a model. @returns {() => void} undo */
export function render({ model, el, signal }) {
  const close = RENDERERS[model.get("kind")]({ model, el });
  let closed = false;
  const once = () => {
    if (!closed) close();
    closed = true;
  };
  signal?.addEventListener("abort", once);
  return once;
}
