//! Of a cluster: plans for random ones.

mod placement;
