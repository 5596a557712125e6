//! One nginx: its directory, its configuration, its command.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// The file whose existence asks clients to leave.
pub const LEAVING: &str = "leaving";

/// nginx goes on answering with keep-alive until it is told to quit, and then closes idle connections in the faces of
/// clients that are about to use them. The `if` changes that: once the file is there, every answer says
/// `Connection: close`, so that at the end of the lame duck hardly a connection is left.
const CONFIG: &str = r#"
daemon off;
worker_processes 2;
pid nginx.pid;
error_log error.log warn;
# What can never finish is cut before the drain ends, and not only by SIGKILL.
worker_shutdown_timeout 15s;
events { worker_connections 512; }
http {
    access_log off;
    default_type text/plain;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream app { server UPSTREAM; keepalive 16; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    server {
        listen 127.0.0.1:PORT;
        location / {
            if (-f DIR/leaving) { rewrite ^ /last$uri last; }
            proxy_pass http://app;
        }
        location /last/ {
            internal;
            keepalive_timeout 0;
            rewrite ^/last(.*)$ $1 break;
            proxy_pass http://app;
        }
    }
}
"#;

/// Writes what an nginx on this port needs.
///
/// # Errors
///
/// When the directory can't be written to.
pub fn write(dir: &Path, port: u16, upstream: SocketAddr) -> io::Result<()> {
    let config = CONFIG
        .replace("UPSTREAM", &upstream.to_string())
        .replace("PORT", &port.to_string())
        .replace("DIR", &dir.to_string_lossy());
    fs::write(dir.join("nginx.conf"), config)
}

/// nginx in the foreground, all of its files in the directory.
pub fn nginx(dir: &Path) -> Command {
    let mut command = Command::new("nginx");
    command
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(dir.join("nginx.conf"));
    // Before it has read its configuration it would complain about the system's log.
    command.arg("-e").arg(dir.join("error.log"));
    command
}
