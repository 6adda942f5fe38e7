//! The client's parser (HTML Standard §9.2.6).
