/** Looks: the host's own fonts and colours, hairlines, figures of one width. */
export const STYLE = `
.cellstore {
  --cs-ink: var(--jp-content-font-color1, var(--vscode-foreground, #212121));
  --cs-quiet: var(--jp-content-font-color2, var(--vscode-descriptionForeground, #6b6b6b));
  --cs-faint: var(--jp-content-font-color3, var(--vscode-disabledForeground, #9a9a9a));
  --cs-line: var(--jp-border-color2, var(--vscode-panel-border, #e0e0e0));
  --cs-hair: var(--jp-border-color3, var(--vscode-panel-border, #eeeeee));
  --cs-paper: var(--jp-layout-color1, var(--vscode-editor-background, #ffffff));
  --cs-raised: var(--jp-layout-color2, var(--vscode-editorWidget-background, #f5f5f5));
  --cs-hover: var(--jp-rendermime-table-row-hover-background, var(--vscode-list-hoverBackground, #f0f6fb));
  --cs-accent: var(--jp-brand-color1, var(--vscode-focusBorder, #1976d2));
  --cs-good: var(--jp-success-color1, var(--vscode-testing-iconPassed, #388e3c));
  --cs-warn: var(--jp-warn-color1, var(--vscode-editorWarning-foreground, #f57c00));
  --cs-bad: var(--jp-error-color1, var(--vscode-errorForeground, #d32f2f));
  --cs-flash: color-mix(in srgb, var(--cs-accent) 28%, transparent);
  --cs-mono: var(--jp-code-font-family, var(--vscode-editor-font-family, ui-monospace, monospace));
  font: 13px/1.45 var(--jp-ui-font-family, var(--vscode-font-family, system-ui, sans-serif));
  color: var(--cs-ink);
  max-width: 100%;
  box-sizing: border-box;
  padding: var(--jp-code-padding, 5px) 8px 8px;
  font-variant-numeric: tabular-nums;
}
body[data-jp-theme-light="false"] .cellstore, body.vscode-dark .cellstore, body.vscode-high-contrast .cellstore { color-scheme: dark; }
.cellstore [hidden] { display: none !important; }
.cellstore .cs-head {
  display: flex; align-items: baseline; gap: 12px; margin-bottom: 5px;
  font-size: 11px; line-height: 17px; color: var(--cs-faint);
}
.cellstore .cs-label {
  font-family: var(--cs-mono); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; color: var(--cs-quiet);
}
.cellstore .cs-space { flex: 1; }
.cellstore .cs-time { white-space: nowrap; }
.cellstore .cs-badge { white-space: nowrap; display: inline-flex; align-items: center; gap: 5px; cursor: default; }
.cellstore .cs-badge::before {
  content: ""; width: 6px; height: 6px; border-radius: 50%; background: var(--cs-faint); flex: none;
}
.cellstore .cs-badge[data-state="live"]::before { background: var(--cs-good); }
.cellstore .cs-badge[data-state="waiting"]::before { background: var(--cs-warn); }
.cellstore .cs-badge[data-state="reconnecting"] { color: var(--cs-warn); }
.cellstore .cs-badge[data-state="reconnecting"]::before { background: var(--cs-warn); animation: cs-pulse 1.6s infinite; }
.cellstore .cs-badge[data-state="closed"] { color: var(--cs-bad); }
.cellstore .cs-badge[data-state="closed"]::before { background: var(--cs-bad); }
@keyframes cs-pulse { 50% { opacity: 0.25; } }
.cellstore[data-state="reconnecting"] .cs-body, .cellstore.cs-failed .cs-place { opacity: 0.55; }
.cellstore .cs-body { overflow-x: auto; transition: opacity 0.3s; padding: 1px; margin: -1px; } /* room for focus rings */
.cellstore .cs-note { color: var(--cs-faint); font-size: 11px; padding: 4px 0 0; }

.cellstore .cs-error {
  background: var(--jp-rendermime-error-background, color-mix(in srgb, var(--cs-bad) 14%, transparent));
  padding: 6px 10px; margin: 0 0 6px; max-width: 100%; overflow-x: auto; box-sizing: border-box;
  font: var(--jp-code-font-size, 13px)/var(--jp-code-line-height, 1.3077) var(--cs-mono);
}
.cellstore .cs-error-head { white-space: pre-wrap; overflow-wrap: anywhere; }
.cellstore .cs-error-head b { color: var(--cs-bad); font-weight: 600; }
.cellstore .cs-error pre {
  font: inherit; margin: 0; padding: 0; background: none; border: 0; color: inherit; white-space: pre;
}
.cellstore .cs-error pre + .cs-error-head, .cellstore .cs-error-head + pre { margin-top: 4px; }

.cellstore .cs-logs { margin-top: 5px; font-size: 11px; color: var(--cs-quiet); }
.cellstore .cs-logs summary { cursor: pointer; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.cellstore .cs-logs .cs-last { font-family: var(--cs-mono); }
.cellstore .cs-logs .cs-loud { color: var(--cs-warn); }
.cellstore .cs-logs[open] .cs-last { display: none; }
.cellstore .cs-logs[open] summary::after { content: "what it said"; color: var(--cs-faint); }
.cellstore .cs-logs pre {
  font: 12px/1.5 var(--cs-mono); margin: 2px 0 0; padding: 0 0 0 14px; background: none; border: 0; color: inherit;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 20em; overflow-y: auto;
}

.cellstore .cs-place > .cs-none { padding: 0 4px; }
.cellstore .cs-scalar { font-size: 26px; font-weight: 300; line-height: 1.25; padding: 0 4px; border-radius: 3px; display: inline-block; }
.cellstore .cs-scalar.cs-prose { font-size: 13px; font-weight: 400; line-height: 1.5; white-space: pre-wrap; }
.cellstore table.cs-table { border-collapse: collapse; margin: 0; width: auto; font-size: 13px; border: 0; table-layout: auto; }
.cellstore .cs-table th, .cellstore .cs-table td {
  padding: 3px 14px 3px 4px; text-align: left; vertical-align: baseline; white-space: nowrap; max-width: 44ch;
  overflow: hidden; text-overflow: ellipsis; border: 0; background: none; font-weight: 400;
}
.cellstore .cs-table tr { background: none !important; }
.cellstore .cs-table thead th { color: var(--cs-quiet); font-size: 11px; border-bottom: 1px solid var(--cs-line); }
.cellstore .cs-table tbody td { border-bottom: 1px solid var(--cs-hair); }
.cellstore .cs-table tbody tr:hover td { background: var(--cs-hover); }
.cellstore .cs-table .cs-right, .cellstore .cs-cell.cs-right { text-align: right; }
.cellstore .cs-table .cs-name { color: var(--cs-quiet); padding-right: 20px; }
.cellstore .cs-dict td { text-align: left !important; }
.cellstore .cs-table .cs-index { color: var(--cs-faint); text-align: right; font-size: 11px; }
.cellstore .cs-table td { color: var(--cs-ink); }
.cellstore .cs-none, .cellstore .cs-table td.cs-none { color: var(--cs-faint); }
.cellstore .cs-quiet, .cellstore .cs-table td.cs-quiet { color: var(--cs-quiet); }
.cellstore .cs-id, .cellstore .cs-table td.cs-id { font: 11px var(--cs-mono); color: var(--cs-faint); max-width: 10ch !important; }
.cellstore .cs-list .cs-string, .cellstore .cs-dict td + td { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 88ch; }
.cellstore .cs-dict .cs-id { max-width: none !important; }

.cellstore .cs-bar { display: flex; align-items: center; gap: 10px; margin-bottom: 6px; font-size: 12px; }
.cellstore input, .cellstore select, .cellstore textarea {
  font: inherit; font-size: 13px; color: var(--cs-ink); background: var(--cs-paper); border: 1px solid var(--cs-line);
  border-radius: 3px; padding: 4px 8px; box-sizing: border-box; min-width: 0;
}
.cellstore input:focus-visible, .cellstore select:focus-visible, .cellstore textarea:focus-visible,
.cellstore button:focus-visible { outline: 2px solid var(--cs-accent); outline-offset: -1px; }
.cellstore .cs-filter { width: 220px; padding: 3px 8px; }
.cellstore .cs-count { color: var(--cs-faint); font-size: 11px; }
.cellstore .cs-scroller {
  overflow: auto; position: relative; border: 1px solid var(--cs-line); border-radius: 3px; outline: none;
  background: var(--cs-paper); max-width: 100%; box-sizing: border-box;
}
.cellstore .cs-scroller:focus-visible { border-color: var(--cs-accent); }
.cellstore .cs-sheet { position: relative; min-width: 100%; }
.cellstore .cs-empty { padding: 0 10px; line-height: 27px; position: sticky; left: 0; color: var(--cs-faint); }
.cellstore .cs-grow { display: grid; box-sizing: border-box; border-bottom: 1px solid var(--cs-hair); }
.cellstore .cs-ghead {
  position: sticky; top: 0; z-index: 2; background: var(--cs-raised); border-bottom: 1px solid var(--cs-line);
  font-size: 11px; color: var(--cs-quiet); user-select: none;
}
.cellstore .cs-gbody .cs-grow { position: absolute; left: 0; right: 0; }
.cellstore .cs-gbody .cs-grow:hover { background: var(--cs-hover); }
.cellstore .cs-cell {
  padding: 0 10px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; box-sizing: border-box;
  line-height: var(--cs-row); height: calc(var(--cs-row) - 1px); text-align: left; /* the line below makes it a row */
}
.cellstore .cs-cell.cs-id { font: 11px/var(--cs-row) var(--cs-mono); max-width: none !important; }
.cellstore .cs-ghead .cs-cell { cursor: pointer; }
.cellstore .cs-ghead .cs-cell:hover { color: var(--cs-ink); }
.cellstore .cs-ghead .cs-cell[aria-sort]:not([aria-sort="none"]) { color: var(--cs-ink); font-weight: 600; }
.cellstore .cs-scroller:focus .cs-cell.cs-here, .cellstore .cs-scroller:focus-within .cs-cell.cs-here {
  box-shadow: inset 0 0 0 1.5px var(--cs-accent);
}
.cellstore .cs-cell.cs-editing { padding: 0; overflow: visible; }
.cellstore .cs-cell.cs-editing input { width: 100%; height: 100%; border: 0; padding: 0 10px; border-radius: 0; }
.cellstore .cs-cell.cs-sent { opacity: 0.5; font-style: italic; }

.cellstore .cs-fields {
  display: grid; grid-template-columns: max-content minmax(160px, 340px) minmax(0, 1fr); gap: 6px 12px; align-items: center;
}
.cellstore .cs-fields label { color: var(--cs-quiet); }
.cellstore .cs-fields .cs-hint { color: var(--cs-faint); font-size: 11px; }
.cellstore .cs-fields .cs-hint.cs-problem { color: var(--cs-bad); }
.cellstore .cs-fields input[type="checkbox"] { justify-self: start; width: 15px; height: 15px; accent-color: var(--cs-accent); }
.cellstore .cs-fields textarea { font-family: var(--cs-mono); font-size: 12px; resize: vertical; min-height: 30px; }
.cellstore .cs-actions { display: flex; align-items: center; gap: 12px; }
.cellstore .cs-fields .cs-actions { grid-column: 2 / 4; margin-top: 4px; }
.cellstore button.cs-do {
  font: inherit; font-weight: 500; color: var(--cs-accent); background: transparent; border: 1px solid var(--cs-line);
  border-radius: 3px; padding: 4px 14px; cursor: pointer;
}
.cellstore button.cs-do:hover:not(:disabled) { border-color: var(--cs-accent); background: var(--cs-raised); }
.cellstore button.cs-do:disabled { color: var(--cs-faint); cursor: default; }
.cellstore progress.cs-far { width: 10em; accent-color: var(--cs-accent); }
.cellstore .cs-outcome { color: var(--cs-quiet); font-size: 12px; }
.cellstore .cs-outcome[data-state="done"] { color: var(--cs-good); }
.cellstore .cs-wrong, .cellstore .cs-wrong:focus-visible { border-color: var(--cs-bad); outline-color: var(--cs-bad); }

.cellstore .cs-view-out img { max-width: 100%; height: auto; display: block; border-radius: 2px; }
.cellstore .cs-view-out pre { font: 12px/1.5 var(--cs-mono); margin: 0; background: none; color: inherit; white-space: pre-wrap; }
.cellstore .cs-view-out .jp-RenderedHTMLCommon { padding-right: 0; }
.cellstore .cs-view-out .jp-RenderedHTMLCommon table { margin-left: 0; margin-right: 0; }
:where(.cellstore .cs-view-out) table { border-collapse: collapse; font-size: 12px; border: 0; }
:where(.cellstore .cs-view-out) :is(th, td) { padding: 4px 8px; text-align: right; border: 0; }
`;
