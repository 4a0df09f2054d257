//! Reflection: the services that the running component serves, for clients that ask.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

use crate::logic::{Generation, Interface};
use crate::proto::DESCRIPTORS;
use crate::services::SERVICES;

/// Services that every component has beside the contract's.
const HEALTH: &str = "grpc.health.v1.Health";
const VERSIONS: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The reflection services of the running component.
pub struct Reflection {
    current: ArcSwap<Reflected>,
}

struct Reflected {
    served: Vec<Interface>,
    routes: Routes,
}

impl Reflection {
    /// Reflection of a component.
    ///
    /// # Errors
    /// When the descriptors cannot be served.
    pub fn new(generation: &Generation) -> Result<Self, Error> {
        let reflected = Reflected::of(generation.served())?;
        Ok(Self { current: ArcSwap::new(Arc::new(reflected)) })
    }

    /// The services of a component, which is most often that of the call before.
    pub fn routes(&self, generation: &Generation) -> Routes {
        let current = self.current.load();
        if current.served == generation.served() {
            return current.routes.clone();
        }
        match Reflected::of(generation.served()) {
            Ok(reflected) => {
                let routes = reflected.routes.clone();
                self.current.store(Arc::new(reflected));
                routes
            }
            // The same descriptors were served before.
            Err(_) => current.routes.clone(),
        }
    }
}

impl Reflected {
    fn of(served: &[Interface]) -> Result<Self, Error> {
        let [v1, v1alpha] = VERSIONS.map(|version| {
            let is_served = |kind| served.iter().any(|interface| interface.name() == kind);
            let services = SERVICES.iter().filter(|service| is_served(service.kind));
            services.map(|service| service.name).chain([HEALTH, version]).fold(
                Builder::configure()
                    .register_encoded_file_descriptor_set(DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    // Clients without our files need these to read the details of errors.
                    .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET),
                Builder::with_service_name,
            )
        });
        let routes = Routes::new(v1.build_v1()?).add_service(v1alpha.build_v1alpha()?).prepare();
        Ok(Self { served: served.to_vec(), routes })
    }
}
