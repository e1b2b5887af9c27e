// A page made with the published React hooks: messages, a page at a time, and a button.
import React from "react";
import { createRoot } from "react-dom/client";
import { ConvexProvider, ConvexReactClient, useMutation, usePaginatedQuery, useQuery } from "convex/react";
import { ConvexHttpClient } from "convex/browser";
import { anyApi as api } from "convex/server";

const url = new URLSearchParams(location.search).get("server");
const client = new ConvexReactClient(url, { skipConvexDeploymentUrlCheck: true });

window.http = new ConvexHttpClient(url, { skipConvexDeploymentUrlCheck: true });
window.api = api;

function App() {
  const count = useQuery(api.feed.count, {});
  const { results, status, loadMore } = usePaginatedQuery(api.feed.page, {}, { initialNumItems: 3 });
  const post = useMutation(api.feed.post).withOptimisticUpdate((store) => {
    store.setQuery(api.feed.count, {}, (store.getQuery(api.feed.count, {}) ?? 0) + 100);
  });
  const refuse = useMutation(api.feed.refuse).withOptimisticUpdate((store) => store.setQuery(api.feed.count, {}, -1));
  const [said, say] = React.useState("");
  window.counts = [...(window.counts ?? []), count].filter((n, i, all) => n !== undefined && n !== all[i - 1]);
  return (
    <main>
      <p id="count">{count === undefined ? "loading" : count}</p>
      <p id="status">{status}</p>
      <p id="rows">{results.map((row) => row.n).join(" ")}</p>
      <p id="said">{said}</p>
      <button id="more" onClick={() => loadMore(3)}>more</button>
      <button id="post" onClick={() => post({ n: 99 }).then(() => say("posted"))}>post</button>
      <button id="refuse" onClick={() => refuse({}).catch((error) => say("refused: " + error.data.why))}>refuse</button>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<ConvexProvider client={client}><App /></ConvexProvider>);
