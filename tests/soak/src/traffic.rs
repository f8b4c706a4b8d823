//! What is asked of the shop: a third creates an order, a third reads one, a third reads the user.
//!
//! Every order has an id of its own, made from its ticket, and an amount made from its id. So the ledger can tell which
//! request each row came from, and the shop says itself when a request reached it twice: a repeated order is answered
//! with 200 instead of 202.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Orders that are there from the start, to be read.
pub(crate) const KNOWN: u64 = 50;

/// The number of a request in a run.
pub(crate) type Ticket = u64;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `POST /order/orders/`: gateway, order, user and the database.
    CreateOrder,
    /// `GET /order/orders/{id}`.
    ReadOrder,
    /// `GET /user/users/{name}`.
    ReadUser,
}

/// The requests of one run.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// Who orders: nobody but this run.
    pub(crate) username: String,
    /// Orders before this id belong to [`Traffic::known`].
    first: u64,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Why a proxy answered itself, if one did.
    pub(crate) reason: Option<String>,
    /// What limits it counted into.
    pub(crate) limits: Option<String>,
    pub(crate) body: Bytes,
}

#[derive(Deserialize)]
struct Named {
    order_id: Option<u64>,
    username: String,
}

impl Traffic {
    /// Traffic of a run; `seed` tells runs apart.
    pub(crate) fn new(seed: u32) -> Self {
        Self {
            username: format!("soak-{seed:08x}"),
            // Below 2^53, the largest id, with room for a million orders before the next run's.
            first: (u64::from(seed) << 20) + 1 + KNOWN,
        }
    }

    /// Ids of the orders that are made before the load begins.
    pub(crate) fn known(&self) -> std::ops::Range<u64> {
        self.first - KNOWN..self.first
    }

    /// What a ticket asks for.
    pub(crate) fn kind(ticket: Ticket) -> Kind {
        match ticket % 3 {
            0 => Kind::CreateOrder,
            1 => Kind::ReadOrder,
            _ => Kind::ReadUser,
        }
    }

    /// The order that a ticket creates or reads.
    pub(crate) fn order_id(&self, ticket: Ticket) -> u64 {
        match Self::kind(ticket) {
            Kind::CreateOrder => self.first + ticket,
            _ => self.first - 1 - ticket / 3 % KNOWN,
        }
    }

    /// The ticket that creates an order, if it is one that this run may create under load.
    pub(crate) fn ticket(&self, order_id: u64) -> Option<Ticket> {
        let ticket = order_id.checked_sub(self.first)?;
        (Self::kind(ticket) == Kind::CreateOrder).then_some(ticket)
    }

    /// What an order costs, in cents.
    pub(crate) const fn amount(order_id: u64) -> u64 {
        order_id % 1_000_000 + 1
    }

    /// An order as a client writes it.
    pub(crate) fn order(&self, order_id: u64) -> Value {
        let cents = Self::amount(order_id);
        json!({
            "order_id": order_id,
            "username": self.username,
            "amount": format!("{}.{:02}", cents / 100, cents % 100),
        })
    }

    /// The request of a ticket, with a path only.
    pub(crate) fn request(&self, ticket: Ticket) -> Request<Full<Bytes>> {
        let order_id = self.order_id(ticket);
        let (method, path, body) = match Self::kind(ticket) {
            Kind::CreateOrder => (
                Method::POST,
                "/order/orders/".to_owned(),
                self.order(order_id).to_string(),
            ),
            Kind::ReadOrder => (Method::GET, format!("/order/orders/{order_id}"), String::new()),
            Kind::ReadUser => (
                Method::GET,
                format!("/user/users/{}", self.username),
                String::new(),
            ),
        };
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = method.clone();
        // Made of the characters above alone.
        *request.uri_mut() = path.parse().unwrap_or_default();
        if method == Method::POST {
            let json = header::HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        request
    }

    /// What is wrong with an answer, if anything is.
    pub(crate) fn fault(&self, ticket: Ticket, answer: &Answer) -> Option<String> {
        let kind = Self::kind(ticket);
        let wanted = match kind {
            Kind::CreateOrder => StatusCode::ACCEPTED,
            Kind::ReadOrder | Kind::ReadUser => StatusCode::OK,
        };
        let shown = || {
            let reason = answer.reason.as_deref().unwrap_or("the service's own");
            let text = String::from_utf8_lossy(&answer.body);
            let text: String = text.chars().take(200).collect();
            format!("{} ({reason}): {text}", answer.status)
        };
        if answer.status != wanted {
            return Some(shown());
        }
        let order_id = (kind != Kind::ReadUser).then(|| self.order_id(ticket));
        match serde_json::from_slice::<Named>(&answer.body) {
            Ok(named) if named.username == self.username && named.order_id == order_id => None,
            _ => Some(format!("another answer than asked for: {}", shown())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &Value) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            reason: None,
            limits: None,
            body: body.to_string().into(),
        }
    }

    #[test]
    fn a_third_of_the_requests_create_orders_and_no_two_the_same() {
        let traffic = Traffic::new(7);
        let ids: Vec<u64> = (0..300)
            .filter(|ticket| Traffic::kind(*ticket) == Kind::CreateOrder)
            .map(|ticket| traffic.order_id(ticket))
            .collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(ids.iter().all(|id| !traffic.known().contains(id)));
        assert_eq!(traffic.ticket(ids[5]), Some(15));
        assert_eq!(traffic.ticket(ids[5] + 1), None, "that ticket reads");
    }

    #[test]
    fn what_is_read_was_there_from_the_start() {
        let traffic = Traffic::new(u32::MAX);
        for ticket in (1..400).step_by(3) {
            assert!(traffic.known().contains(&traffic.order_id(ticket)));
        }
        assert!(traffic.order_id(1_000_000) < 1 << 53);
    }

    #[test]
    fn an_order_answered_as_known_before_was_sent_twice_and_is_a_fault() {
        let traffic = Traffic::new(1);
        let body = traffic.order(traffic.order_id(3));
        assert_eq!(traffic.fault(3, &answer(202, &body)), None);
        assert!(traffic.fault(3, &answer(200, &body)).unwrap().contains("200"));
        assert!(traffic.fault(3, &answer(202, &traffic.order(1))).is_some());
        assert!(
            traffic
                .fault(2, &answer(502, &json!({})))
                .unwrap()
                .contains("502")
        );
    }
}
