//! Making the nodes, and whose they are.

use std::future::Future;

use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::Ensemble;
use super::format::Node;
use crate::registry::RegistryError;

/// How often something else may come and go in between.
const TRIES: usize = 5;

/// Whose a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Us,
    /// Another session, or nobody: a node that does not go with a session.
    Another,
    /// There is no such node.
    None,
}

/// Whose each of the nodes is. The questions are sent at once; the answers come in order.
pub(super) fn owners(
    client: &Client,
    paths: &[String],
) -> impl Future<Output = Result<Vec<Owner>, Error>> + use<> {
    let session = client.session_id().0;
    let stats: Vec<_> = paths
        .iter()
        .map(|path| Box::pin(client.check_stat(path)))
        .collect();
    async move {
        let stats = futures::future::try_join_all(stats).await?;
        let owner = |stat: Option<zookeeper_client::Stat>| match stat {
            Some(stat) if stat.ephemeral_owner == session => Owner::Us,
            Some(_) => Owner::Another,
            None => Owner::None,
        };
        Ok(stats.into_iter().map(owner).collect())
    }
}

/// Makes the node our session's, whatever was there.
pub(super) async fn create(
    ensemble: &Ensemble,
    client: &Client,
    node: &Node,
) -> Result<(), RegistryError> {
    let Node { path, data } = node;
    let creating = |error: &Error| ensemble.error(&format!("creating {path}"), error);
    let ephemeral = CreateMode::Ephemeral.with_acls(ensemble.acls());
    for _ in 0..TRIES {
        match client.create(path, data, &ephemeral).await {
            Ok(_) => return Ok(()),
            Err(Error::NoNode) => make_parents(ensemble, client, path).await?,
            Err(Error::NodeExists) => {
                let stat = client.check_stat(path).await.map_err(|e| creating(&e))?;
                match stat.map(|stat| stat.ephemeral_owner) {
                    // It went meanwhile.
                    None => {}
                    // A create whose answer was lost.
                    Some(owner) if owner == client.session_id().0 => return Ok(()),
                    Some(0) => {
                        return Err(RegistryError::new(format!(
                            "creating {path} at {}: there is a node that is not ephemeral; delete it",
                            ensemble.servers
                        )));
                    }
                    // Of a session that is over, or about to be: a predecessor's at the same address, or our own. It
                    // would go with that session, and this instance with it.
                    Some(_) => match replace(client, node, &ephemeral).await {
                        Ok(()) => return Ok(()),
                        Err(Error::NoNode | Error::NodeExists | Error::BadVersion) => {}
                        Err(error) => return Err(creating(&error)),
                    },
                }
            }
            Err(error) => return Err(creating(&error)),
        }
    }
    Err(RegistryError::new(format!(
        "creating {path} at {}: others made and deleted it {TRIES} times meanwhile",
        ensemble.servers
    )))
}

/// In one transaction, so that clients are told of both, and never find neither.
async fn replace(
    client: &Client,
    node: &Node,
    options: &zookeeper_client::CreateOptions<'_>,
) -> Result<(), Error> {
    let mut writer = client.new_multi_writer();
    writer.add_delete(&node.path, None)?;
    writer.add_create(&node.path, &node.data, options)?;
    writer.commit().await?;
    Ok(())
}

/// From the top down. Asked for before they are created: who may not create may still find them there.
async fn make_parents(
    ensemble: &Ensemble,
    client: &Client,
    path: &str,
) -> Result<(), RegistryError> {
    let ends: Vec<_> = path.match_indices('/').map(|(at, _)| at).skip(1).collect();
    for (nth, end) in ends.iter().enumerate() {
        let parent = &path[..*end];
        let creating = |error: &Error| ensemble.error(&format!("creating {parent}"), error);
        if client
            .check_stat(parent)
            .await
            .map_err(|e| creating(&e))?
            .is_some()
        {
            continue;
        }
        // Those above the last are shared with other services.
        let acls = if nth + 1 == ends.len() {
            ensemble.acls()
        } else {
            Acls::anyone_all()
        };
        let options = CreateMode::Persistent.with_acls(acls);
        match client.create(parent, b"", &options).await {
            Ok(_) | Err(Error::NodeExists) => {}
            Err(error) => return Err(creating(&error)),
        }
    }
    Ok(())
}
