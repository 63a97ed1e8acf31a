//! Short stories: each name is a sentence that an operator could rely on.

mod formation;
mod joining;
mod members;
mod moving;
mod settings;
