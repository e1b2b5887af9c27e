"""A columnar mirror of the store: SQL, dataframes and exports, each as of one exact timestamp.

    documents, log ──▶ feed ──▶ mirror (DuckDB) ──▶ sql, Parquet ──▶ clients' dataframes
                                ▲
          shape, columns ───────┘ which column a field becomes
    log ──▶ changes: what is different between two timestamps

DuckDB reads documents as JSON text, so no document becomes a Python object on its way to a frame unless its table
declares no types; then each is looked at once. A table is loaded when a statement first reads it and then follows the
document log; rows keep the span of time they were true in, so that one mirror answers at any moment since it was
loaded. An earlier moment is read from the storage.

Exports (`archive`, `exports`) are files made from the same moment by a process of their own.

The work is done by an `Analyst`, in a process of its own (`worker`) for a store in a file, or in threads for one in
memory; `service.Analytics` is the asynchronous face of either. DuckDB cannot reach files or the network from SQL: only
the analyst's own scratch directory, where results wait to be fetched.

Invariant: what an answer shows is what the store's readers would have shown at its timestamp, no more and no less.
"""
