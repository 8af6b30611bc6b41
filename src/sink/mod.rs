//! sink (skeleton)
