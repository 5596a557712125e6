//! The servers' URLs: users and passwords come out of them and are shown nowhere.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::HeaderValue;
use percent_encoding::percent_decode_str;

use super::Eureka;
use crate::registry::RegistryError;
use crate::registry::http::HttpClient;

/// What Spring binds to `eureka.client.serviceUrl.defaultZone`.
const VARIABLE: &str = "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE";

/// Where Spring's client looks that was not told otherwise.
const LOCAL: &str = "http://127.0.0.1:8761/eureka";

/// `get` reads a variable. An empty one is none.
pub(super) fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Eureka, RegistryError> {
    let Some(urls) = get(VARIABLE).filter(|urls| !urls.trim().is_empty()) else {
        return Eureka::new([LOCAL]);
    };
    let urls = urls.split(',').map(str::trim).filter(|url| !url.is_empty());
    Eureka::new(urls).map_err(|error| RegistryError::new(format!("{VARIABLE}: {error}")))
}

pub(super) fn client<U: AsRef<str>>(
    urls: impl IntoIterator<Item = U>,
) -> Result<HttpClient, RegistryError> {
    let parted: Vec<_> = urls.into_iter().map(|url| parted(url.as_ref())).collect();
    let mut users = Vec::new();
    let mut bare = Vec::new();
    for url in parted {
        let (url, user) = url?;
        bare.push(url);
        users.push(user);
    }
    let mut client = HttpClient::new(bare)?;
    for (server, user) in users.into_iter().enumerate() {
        if let Some(user) = user {
            client = client.with_authorization(server, user);
        }
    }
    Ok(client)
}

/// The URL without the user in it, and the user as a header.
fn parted(url: &str) -> Result<(String, Option<HeaderValue>), RegistryError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Ok((url.to_owned(), None));
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((user, host)) = authority.rsplit_once('@') else {
        return match path.rsplit_once('@') {
            None => Ok((url.to_owned(), None)),
            Some((_, host)) => Err(RegistryError::new(format!(
                "the URL of a registry with what stands before {host:?} for its user cannot be read: percent-encode \
                 reserved characters in the user and the password, a slash as %2F"
            ))),
        };
    };
    let decoded = |part: &str| percent_decode_str(part).collect::<Vec<u8>>();
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let both = [decoded(name), decoded(password)].join(&b':');
    let value = format!("Basic {}", BASE64_STANDARD.encode(both));
    let value = HeaderValue::from_str(&value).map_err(|_| {
        RegistryError::new(format!("the user for {host:?} cannot be put into a header"))
    })?;
    Ok((format!("{scheme}://{host}{path}"), Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> (String, Option<String>) {
        let (url, user) = parted(url).unwrap();
        let user = user.map(|value| {
            let value = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
            String::from_utf8(BASE64_STANDARD.decode(value).unwrap()).unwrap()
        });
        (url, user)
    }

    #[test]
    fn the_user_comes_out_of_the_url() {
        for (url, bare, user) in [
            ("http://e:8761/eureka", "http://e:8761/eureka", None),
            ("http://u:p@e:1/eureka/", "http://e:1/eureka/", Some("u:p")),
            ("http://u@e", "http://e", Some("u:")),
            ("http://u:a:b@e", "http://e", Some("u:a:b")),
            ("http://u:%40%2F%3a@e/x", "http://e/x", Some("u:@/:")),
            ("http://u:p@ss@e/x", "http://e/x", Some("u:p@ss")),
            ("http://e/eureka", "http://e/eureka", None),
            ("e:8761", "e:8761", None),
        ] {
            let expected = (bare.to_owned(), user.map(ToOwned::to_owned));
            assert_eq!(read(url), expected, "{url}");
        }
    }

    #[test]
    fn nothing_shows_a_password() {
        let eureka = Eureka::new([
            "http://svc:hush-hush@one:8761/eureka",
            "http://svc:hush-hush@two:8761/eureka",
        ]);
        let eureka = eureka.unwrap();
        for shown in [format!("{eureka:?}"), format!("{eureka:#?}")] {
            assert!(shown.contains("http://one:8761/eureka"), "{shown}");
            assert!(shown.contains("http://two:8761/eureka"), "{shown}");
            for secret in ["hush", "svc", &BASE64_STANDARD.encode("svc:hush-hush")] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
        for url in [
            "http://svc:hush/hush@one:8761/eureka",
            "svc:hush-hush@one:8761",
            "http://svc:hush-hush@one:0/eureka",
            "ftp://svc:hush-hush@one/eureka",
            "http://svc:hush-hush@one/eureka?x",
        ] {
            let error = Eureka::new([url]).map(drop).unwrap_err().to_string();
            assert!(error.contains("one"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn the_servers_are_those_of_a_spring_client() {
        let read = |value: Option<&str>| {
            from_env(|name| {
                assert_eq!(name, VARIABLE);
                value.map(ToOwned::to_owned)
            })
            .map(|eureka| format!("{eureka:?}"))
            .map_err(|error| error.to_string())
        };
        for (value, servers) in [
            (None, "[http://127.0.0.1:8761/eureka]"),
            (Some(" "), "[http://127.0.0.1:8761/eureka]"),
            (
                Some("http://a/eureka/, http://u:hush@b:1/eureka,"),
                "[http://a/eureka, http://b:1/eureka]",
            ),
        ] {
            let shown = read(value).unwrap();
            assert!(shown.contains(servers), "{shown}");
        }
        let error = read(Some("http://u:hush@b:x/eureka")).unwrap_err();
        assert!(error.starts_with(&format!("{VARIABLE}: ")), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}
