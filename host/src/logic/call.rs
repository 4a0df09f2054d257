//! How every call of the component is made.

/// Calls one function of an interface, when it is the turn of the caller's peer. The call
/// runs on the present generation to its end, even if that generation is replaced meanwhile.
/// A macro, as the future of a closure that borrows its arguments has no name to bound.
macro_rules! call {
    ($self:ident, $interface:ident . $function:ident ( $($argument:expr),* )) => {
        match $crate::network::quota::CallPermit::take().await {
            Err(_) => Err($self.overloaded()),
            Ok(_turn) => loop {
                let generation = $self.current.load_full();
                let result = match generation.pool.lease().await {
                    // It was replaced before the call had begun.
                    Err($crate::logic::pool::NoLease::Retired) => continue,
                    Err($crate::logic::pool::NoLease::Failed(failure)) => Err(failure),
                    Ok(mut lease) => {
                        let calling = async {
                            let warm = lease.warm();
                            let store = &mut warm.store;
                            let result = match &warm.exports.$interface {
                                Some(exports) => {
                                    exports.$function(store, $($argument),*).await.map(Some)
                                }
                                None => Ok(None),
                            };
                            let result = lease.end(result).and_then(|reply| {
                                let missing = || {
                                    let name = stringify!($interface);
                                    let interface = $crate::logic::exports::Interface::named(name);
                                    interface.expect("the world has an interface of this name")
                                };
                                reply.ok_or_else(|| $crate::logic::failure::Failure::NotServed(missing()))
                            });
                            if let Err(failure) = &result {
                                $crate::telemetry::traces::step_failed(failure.name());
                            }
                            result
                        };
                        let (interface, function) = (stringify!($interface), stringify!($function));
                        let step = || {
                            use $crate::telemetry::traces::Step;
                            Step::component(interface, function, generation.number)
                        };
                        $crate::telemetry::traces::step(step, calling).await
                    }
                };
                if let Err(failure) = &result {
                    $self.failed(&generation, failure);
                }
                break result;
            },
        }
    };
}

pub(super) use call;
