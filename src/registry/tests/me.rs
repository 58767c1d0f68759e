use super::*;
use crate::registry::me::{Me, NO_ADDRESS};
use repmd_backend_api::{Creation, InstanceId, Registration};

fn registration_of(instance: Arc<Instance>) -> Arc<Registration> {
    Arc::new(Registration {
        node: node("a", 1),
        advertised_port: 1,
        creation: Creation::FIRST,
        instance,
        registered_at: std::time::SystemTime::UNIX_EPOCH,
    })
}

/// At the address of the connection, or nowhere.
fn followed(me: &Arc<Instance>) -> Me {
    let (followed, me) = (Me::new(Arc::clone(me)), Arc::clone(me));
    followed.follow_by(Box::new(move |address| Instance {
        addresses: address.into_iter().collect(),
        ..(*me).clone()
    }));
    followed
}

#[test]
fn a_node_of_this_run_is_told_from_one_of_an_earlier_run_and_from_anothers() {
    let this_run = Arc::new(daemon("here"));
    let earlier = Arc::new(Instance { id: InstanceId::random(), ..(*this_run).clone() });
    let another = Arc::new(Instance { name: "here:5000".to_owned(), ..(*earlier).clone() });
    let me = Me::new(Arc::clone(&this_run));
    assert_eq!((me.id(), me.name(), me.host()), (this_run.id, "here:4369", &host("here")));
    let kinds = [this_run, earlier, another].map(|holder| {
        let registration = registration_of(holder);
        (me.holds(&registration), me.held_before(&registration))
    });
    assert_eq!(kinds, [(true, false), (false, true), (false, false)]);
}

#[test]
fn its_addresses_follow_the_connection_and_stay_those_of_the_last_one_while_none_is_open() {
    let started = Arc::new(daemon("here"));
    let me = followed(&started);
    assert_eq!((me.now().addresses.len(), me.complaint().as_deref()), (0, Some(NO_ADDRESS)));
    let follow = |address: Option<[u8; 4]>| {
        me.follow(|| address.map(Into::into)).map(|instance| instance.addresses.clone())
    };
    assert_eq!(follow(None), None);
    let (one, other) = ([10, 0, 0, 7], [10, 0, 0, 8]);
    assert_eq!(follow(Some(one)), Some(vec![one.into()]));
    assert_eq!(me.complaint(), None);
    assert_eq!(follow(Some(one)), None, "nothing is new");
    assert_eq!(follow(None), None);
    assert_eq!(me.now().addresses, [IpAddr::from(one)]);
    assert_eq!(follow(Some(other)), Some(vec![other.into()]));
}

#[test]
fn addresses_that_are_set_stay_and_are_no_complaint_where_there_are_none() {
    let me = Me::new(Arc::new(Instance::new("here:4369", host("here"))));
    assert!(me.follow(|| unreachable!("nothing follows the connection")).is_none());
    assert_eq!(me.complaint(), None);
}

#[test]
fn its_nodes_are_where_it_is_now_and_those_of_others_where_they_were() {
    let started = Arc::new(daemon("here"));
    let me = followed(&started);
    let (own, others) = (registration_of(started), registration_of(Arc::new(daemon("there"))));
    me.follow(|| Some([10, 0, 0, 7].into()));
    let moved = me.with_addresses_of_now(Arc::clone(&own));
    assert_eq!((&moved.instance, &moved.node), (&me.now(), &own.node));
    assert!(Arc::ptr_eq(&me.with_addresses_of_now(Arc::clone(&moved)), &moved), "as it is already");
    assert!(Arc::ptr_eq(&me.with_addresses_of_now(Arc::clone(&others)), &others));
    assert!(format!("{me:?}").contains("10.0.0.7"), "{me:?}");
}
