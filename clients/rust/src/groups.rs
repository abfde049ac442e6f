//! Groups and transactions from outside: what there is, offsets of groups without members, clean-up.

use levee_proto::grpc::{
    CommitOffsetsRequest, DeleteGroupRequest, DeleteOffsetsRequest, DescribeGroupRequest,
    DescribeTransactionRequest, FetchOffsetsRequest, GroupDescription, GroupListing,
    ListGroupsRequest, ListTransactionsRequest, TransactionDescription, TransactionListing,
};

use crate::admin::{Admin, within};
use crate::error::Result;
use crate::offsets::{Offsets, TopicIds, TopicPartition, all_done, by_topic, from_wire, to_wire};

impl Admin {
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        let mut groups = self.client.groups();
        let asked = groups.list_groups(ListGroupsRequest {});
        Ok(within(self.limit, "listing groups", asked).await?.groups)
    }

    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription> {
        let request = DescribeGroupRequest { group: group.to_owned() };
        let mut groups = self.client.groups();
        within(self.limit, "describing the group", groups.describe_group(request)).await
    }

    /// A group without members, and its offsets.
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let request = DeleteGroupRequest { group: group.to_owned() };
        let mut groups = self.client.groups();
        within(self.limit, "deleting the group", groups.delete_group(request)).await.map(drop)
    }

    /// What a group committed, of these partitions or (none) of all; those without an offset are
    /// left out. Offsets that an open transaction may still change are an error.
    pub async fn group_offsets(&self, group: &str, of: &[TopicPartition]) -> Result<Offsets> {
        self.fetch_offsets(group, of, true).await
    }

    /// What a group committed last, of all partitions, whatever open transactions may change.
    pub async fn last_group_offsets(&self, group: &str) -> Result<Offsets> {
        self.fetch_offsets(group, &[], false).await
    }

    async fn fetch_offsets(
        &self,
        group: &str,
        of: &[TopicPartition],
        require_stable: bool,
    ) -> Result<Offsets> {
        let (group, partitions) = (group.to_owned(), by_topic(of));
        let request = FetchOffsetsRequest { group, partitions, require_stable };
        let mut groups = self.client.groups();
        let asked = groups.fetch_offsets(request);
        let found = within(self.limit, "asking for a group's offsets", asked).await?;
        all_done(found.failed)?;
        Ok(from_wire(found.offsets))
    }

    /// Of a group without members: by consumers that share nothing, or to begin elsewhere.
    pub async fn commit_group_offsets(&self, group: &str, offsets: &Offsets) -> Result<()> {
        let offsets = to_wire(offsets, &TopicIds::new());
        let request = CommitOffsetsRequest { group: group.to_owned(), offsets };
        let mut groups = self.client.groups();
        let asked = groups.commit_offsets(request);
        all_done(within(self.limit, "committing offsets", asked).await?.failed)
    }

    pub async fn delete_group_offsets(&self, group: &str, of: &[TopicPartition]) -> Result<()> {
        let request = DeleteOffsetsRequest { group: group.to_owned(), partitions: by_topic(of) };
        let mut groups = self.client.groups();
        let asked = groups.delete_offsets(request);
        all_done(within(self.limit, "deleting offsets", asked).await?.failed)
    }

    pub async fn list_transactions(&self) -> Result<Vec<TransactionListing>> {
        let mut transactions = self.client.transactions();
        let asked = transactions.list_transactions(ListTransactionsRequest {});
        Ok(within(self.limit, "listing transactions", asked).await?.transactions)
    }

    pub async fn describe_transaction(&self, id: &str) -> Result<TransactionDescription> {
        let request = DescribeTransactionRequest { transactional_id: id.to_owned() };
        let mut transactions = self.client.transactions();
        let asked = transactions.describe_transaction(request);
        within(self.limit, "describing the transaction", asked).await
    }
}
