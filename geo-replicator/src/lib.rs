//! Links between clusters. Nothing is built yet: replication has an issue of its own.
