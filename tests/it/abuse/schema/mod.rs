//! The OpenAPI document, taken at its word: requests are made from it, answers are held against it.

mod check;
mod make;
mod run;
