/**
 * A view that is saved with its notebook comes back live. JupyterLab saves only widgets that their kernel still knows,
 * and ours need none: after a restart of the kernel, or in a notebook of yesterday, they would be lost by the next save.
 *
 * Invariant: what is saved beside is ours and shown by an output; what was shown before is not kept for ever.
 */

const VIEW = "application/vnd.jupyter.widget-view+json";
const OURS = "cellstore_kernel.";
const managers = new WeakSet();

/** Have the widget manager of a notebook save our widgets also when their kernel is gone. Others save as they do. */
export function saveWithoutKernel({ widget_manager: manager }) {
  if (!manager?._modelsSync || !manager.context?.model?.cells || managers.has(manager)) return;
  managers.add(manager);
  const save = manager.get_state_sync.bind(manager);
  manager.get_state_sync = (options) => {
    const gone = shownBy(manager).filter((each) => !each.comm_live);
    for (const each of gone) each._comm_live = true; // while it looks; by the setter their views would hear of it
    try {
      return save(options);
    } finally {
      for (const each of gone) each._comm_live = false;
    }
  };
}

/** Our models that an output of the notebook shows, and their layouts. */
function shownBy(manager) {
  const found = new Set();
  for (const { outputs } of manager.context.model.cells) {
    for (let at = 0; at < (outputs?.length ?? 0); at += 1) {
      const model = manager._modelsSync.get(outputs.get(at).data[VIEW]?.model_id);
      if (model?.get("_anywidget_id")?.startsWith(OURS)) found.add(model).add(model.get("layout"));
    }
  }
  return [...found].filter(Boolean);
}
